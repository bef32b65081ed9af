"""Converts the user's arrays of images and labels to a `Split`, or explains why it cannot."""

from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, Int64

from ...errors import UserError, counted
from ..split import Split
from .pixels import unit

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

CHANNELS = (1, 3, 4)  # grey, colour, colour with a fourth channel
MAX_CLASSES = 10**6
MIN_LABELS = 8  # from this many labels on, a missing 0 is no accident


def split_of_arrays(
    name: str,
    x: Array,
    y: Array,
    source: str,
    *,
    classes: int | None = None,
    channels_last: bool = False,
    x_name: str = "x",
    y_name: str = "y",
) -> Split:
    """The examples in two arrays.

    Images are (N,H,W,C), (N,C,H,W) or (N,H,W), uint8 or float in [0, 1]; the axis with 1, 3 or 4 entries holds the
    channels. Labels are whole numbers from 0, of shape (N,) or (N,1), or one-hot rows; the number of classes is the
    highest label plus 1, unless `classes` gives it. With `channels_last`, the axes are known to be (N,H,W,C).
    Raises UserError, which begins with `source`, for anything else.
    """
    if x.ndim and y.ndim and len(x) != len(y):
        raise UserError(
            f"{source} has {counted(len(x), 'image')} in {x_name} but {counted(len(y), 'label')} in {y_name}"
        )
    ordered = x.transpose(0, 3, 1, 2) if channels_last else channels_first(x, f"{source}: {x_name}")
    images = unit_range(ordered, f"{source}: {x_name}")
    labels = whole_labels(y, f"{source}: {y_name}", numbered=classes is not None)
    shown = int(labels.max()) + 1
    if classes is not None and classes < shown:
        raise UserError(f"{source}: {y_name} holds the label {shown - 1}, but the number of classes is {classes}")
    return Split.whole(name, torch.from_numpy(images), torch.from_numpy(labels), classes or shown)


def channels_first(x: Array, source: str) -> Array:
    """The images as (N,C,H,W). The axis with 1, 3 or 4 entries holds the channels."""
    if x.ndim not in (3, 4):
        raise UserError(f"{source} has shape {x.shape}; robench reads images as (N,H,W,C), (N,C,H,W) or (N,H,W)")
    if 0 in x.shape:
        raise UserError(f"{source} is empty: its shape is {x.shape}")
    if x.ndim == 3:
        return x[:, None]
    first, last = x.shape[1] in CHANNELS, x.shape[3] in CHANNELS
    if first and last:
        raise UserError(
            f"{source} has shape {x.shape}, which may be (N,C,H,W) or (N,H,W,C); "
            "pad the images so that only the channel axis has 1, 3 or 4 entries"
        )
    if not first and not last:
        raise UserError(f"{source} has shape {x.shape}; neither its second nor its last axis has 1, 3 or 4 channels")
    return x if first else x.transpose(0, 3, 1, 2)


def unit_range(x: Array, source: str, *, finite: bool = True) -> Float32[np.ndarray, "N C H W"]:
    """The images as float32 in [0, 1]: uint8 divided by 255, floats unchanged. Nothing is clipped or rescaled.

    Without `finite`, pixels that are NaN or infinite pass.
    """
    if x.dtype == np.uint8:
        if x.max() == 1:
            raise UserError(
                f"{source} holds only the uint8 pixels 0 and 1, which are almost black; save them as floats, or times"
                " 255"
            )
        return np.ascontiguousarray(unit(x))
    if x.dtype.kind != "f":
        raise UserError(f"{source} holds {x.dtype}; robench reads uint8 from 0 to 255, or floats from 0 to 1")
    numbers = np.isfinite(x)
    if finite and not numbers.all():
        raise UserError(f"{source} holds NaN or infinite values; pixels are floats from 0 to 1")
    low = float(x.min(initial=np.inf, where=numbers))
    high = float(x.max(initial=-np.inf, where=numbers))
    if low < 0 or high > 1:
        cure = "divide them by 255" if low >= 0 and 2 < high <= 255 else "undo their normalisation"
        raise UserError(f"{source} holds floats from {low:.9g} to {high:.9g}; pixels go from 0 to 1: {cure}")
    return np.ascontiguousarray(x, dtype=np.float32)


def whole_labels(y: Array, source: str, *, numbered: bool = False) -> Int64[np.ndarray, "N"]:
    """The labels as class numbers from 0. With `numbered`, the number of classes is known: labels may lack a 0."""
    if y.dtype == bool and y.ndim == 1:
        raise UserError(f"{source} holds True and False; number the classes 0 and 1, as y.astype(int) does")
    if y.ndim == 2 and y.shape[1] > 1:
        y = _of_one_hot(y, source)
    elif y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise UserError(f"{source} has shape {y.shape}; robench reads one label for each image: shape (N,)")
    if not len(y):
        raise UserError(f"{source} is empty; give one label for each image")
    if y.dtype.kind not in "iuf" or not (np.isfinite(y) & (y == np.floor(y))).all():
        raise UserError(f"{source} holds labels that are not whole numbers; number the classes 0, 1, 2, ...")
    if y.min() < 0:
        raise UserError(f"{source} holds the negative label {y.min():.0f}; number the classes 0, 1, 2, ...")
    if y.max() >= MAX_CLASSES:
        raise UserError(f"{source} holds the label {float(y.max()):.6g}; number the classes 0, 1, 2, ...")
    labels = y.astype(np.int64)
    top = int(labels.max())
    if not numbered and len(labels) >= max(MIN_LABELS, top) and top > 1 and set(labels) == set(range(1, top + 1)):
        raise UserError(
            f"{source} holds the labels 1 to {top} and no 0; classes are numbered from 0: subtract 1, or, if class 0"
            f" exists but has no images here, also give the number of classes, {top + 1} (an array `classes`, or a"
            " robench.Split)"
        )
    return labels


def _of_one_hot(y: Array, source: str) -> Array:
    """The index of the 1 in each row."""
    if y.dtype.kind not in "iufb" or not ((y == 0) | (y == 1)).all() or not (y.sum(axis=1) == 1).all():
        raise UserError(
            f"{source} has shape {y.shape} and is not one-hot, a single 1 in each row; robench reads one label for each"
            " image: shape (N,)"
        )
    places: Array = y.argmax(axis=1)
    return places
