"""Images and labels that the user holds as arrays: what is accepted, and the sentence for what is not."""

from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, Int64

from ...errors import UserError, counted
from ..split import Split
from .pixels import unit

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

CHANNELS = (1, 3, 4)  # grey, colour, colour with a fourth channel
MOST_CLASSES = 10**6
ENOUGH_LABELS = 8  # so many labels without a 0 are no accident


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
    channels. Labels are whole numbers from 0, of shape (N,) or (N,1), or one-hot rows; there are as many classes as the
    highest plus 1 unless `classes` says more. With `channels_last` the axes are known to be (N,H,W,C).
    Raises UserError, naming `source`, for anything else.
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
        raise UserError(f"{source}: {y_name} holds the label {shown - 1}, but there are said to be {classes} classes")
    return Split.whole(name, torch.from_numpy(images), torch.from_numpy(labels), classes or shown)


def channels_first(x: Array, source: str) -> Array:
    """(N,C,H,W). The axis with 1, 3 or 4 entries holds the channels."""
    if x.ndim not in (3, 4):
        raise UserError(f"{source} has shape {x.shape}; robench reads images as (N,H,W,C), (N,C,H,W) or (N,H,W)")
    if 0 in x.shape:
        raise UserError(f"{source} is empty: its shape is {x.shape}")
    if x.ndim == 3:
        return x[:, None]
    first, last = x.shape[1] in CHANNELS, x.shape[3] in CHANNELS
    if first and last:
        raise UserError(
            f"{source} has shape {x.shape}, which reads both as (N,C,H,W) and as (N,H,W,C); "
            "pad the images so that only the channel axis has 1, 3 or 4 entries"
        )
    if not first and not last:
        raise UserError(f"{source} has shape {x.shape}; neither its second nor its last axis has 1, 3 or 4 channels")
    return x if first else x.transpose(0, 3, 1, 2)


def unit_range(x: Array, source: str) -> Float32[np.ndarray, "N C H W"]:
    """uint8 over 255; floats as they are. Nothing is clipped or scaled to fit."""
    if x.dtype == np.uint8:
        if x.max() == 1:
            raise UserError(
                f"{source} holds uint8 pixels of 0 and 1 only, which as bytes are black; save them as floats, or times"
                " 255"
            )
        return np.ascontiguousarray(unit(x))
    if x.dtype.kind != "f":
        raise UserError(f"{source} holds {x.dtype}; robench reads uint8 from 0 to 255, or floats from 0 to 1")
    if not np.isfinite(x).all():
        raise UserError(f"{source} holds NaN or infinite values; pixels are floats from 0 to 1")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        cure = "divide them by 255" if low >= 0 and 2 < high <= 255 else "undo their normalisation"
        raise UserError(f"{source} holds floats from {low:.9g} to {high:.9g}; pixels go from 0 to 1: {cure}")
    return np.ascontiguousarray(x, dtype=np.float32)


def whole_labels(y: Array, source: str, *, numbered: bool = False) -> Int64[np.ndarray, "N"]:
    """Class numbers from 0. `numbered`: the number of classes is known, so that 1..K without a 0 is meant as it is."""
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
    if y.max() >= MOST_CLASSES:
        raise UserError(f"{source} holds the label {float(y.max()):.6g}; number the classes 0, 1, 2, ...")
    labels = y.astype(np.int64)
    most = int(labels.max())
    if not numbered and len(labels) >= max(ENOUGH_LABELS, most) and most > 1 and set(labels) == set(range(1, most + 1)):
        raise UserError(
            f"{source} holds the labels 1 to {most} and no 0; classes are numbered from 0: subtract 1, or, if class 0"
            f" is only not shown, give the number of classes, {most + 1}, too (an array `classes`, or a robench.Split)"
        )
    return labels


def _of_one_hot(y: Array, source: str) -> Array:
    """The place of the 1 in each row."""
    if y.dtype.kind not in "iufb" or not ((y == 0) | (y == 1)).all() or not (y.sum(axis=1) == 1).all():
        raise UserError(
            f"{source} has shape {y.shape} and is not one-hot, a single 1 in each row; robench reads one label for each"
            " image: shape (N,)"
        )
    places: Array = y.argmax(axis=1)
    return places
