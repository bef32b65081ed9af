"""The user's own images: `FILE.npz` with arrays `x` and `y`. Never unpickles."""

import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, Int64

from ...errors import UserError
from ..split import Split
from .files import refuse_page
from .pixels import unit

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

CHANNELS = (1, 3, 4)  # grey, colour, colour with a fourth channel


def read(path: Path, part: str = "test") -> Split:
    """The examples in arrays `x` and `y`, else in `x_test` and `y_test` (or `x_train`, `y_train`).

    Images are (N,H,W,C), (N,C,H,W) or (N,H,W), uint8 or float in [0, 1]; the axis with 1, 3 or 4 entries
    holds the channels. Labels are whole numbers from 0; there are as many classes as the highest plus 1.
    Raises UserError with one sentence when anything else is found.
    """
    plain = {"x", "y"} <= set(names(path))
    x_name, y_name = ("x", "y") if plain else (f"x_{part}", f"y_{part}")
    x, y = arrays(path, x_name, y_name)
    if len(np.shape(x)) and len(np.shape(y)) and len(x) != len(y):
        raise UserError(f"{path} has {len(x)} images in {x_name} but {len(y)} labels in {y_name}")
    images = _in_unit_range(_channels_first(x, f"{path}: {x_name}"), f"{path}: {x_name}")
    labels = _whole(y, f"{path}: {y_name}")
    name = path.name if plain or part == "test" else f"{path.name}:{part}"
    classes = int(labels.max()) + 1
    return Split.whole(name, torch.from_numpy(images), torch.from_numpy(labels), classes)


def names(path: Path) -> list[str]:
    """What the arrays in the file are called."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; --data takes the name of a data set or the path of an .npz file")
    if not zipfile.is_zipfile(path):
        refuse_page(path)
        raise UserError(f"{path} is damaged or no .npz archive; write one with numpy.savez(path, x=images, y=labels)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return list(archive.files)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(str(path), error) from None


def arrays(path: Path, *wanted: str) -> tuple[Array, ...]:
    """The named arrays of a file. Raises UserError when they are missing, unreadable or hold Python objects."""
    held = names(path)
    missing = [name for name in wanted if name not in held]
    if missing:
        raise UserError(
            f"{path} has no array {' and no array '.join(missing)}; it holds {', '.join(held) or 'none'}, "
            "and robench reads x and y (or x_test and y_test)"
        )
    with np.load(path, allow_pickle=False) as archive:
        return tuple(_array(archive, name, path) for name in wanted)


def _array(archive: Any, name: str, path: Path) -> Array:
    try:
        array = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise _damaged(f"{path}: {name}", error) from None
        raise UserError(
            f"{path}: {name} holds Python objects, which robench never unpickles; "
            "save it as numbers, all images of one size"
        ) from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        raise _damaged(f"{path}: {name}", error) from None
    if not isinstance(array, np.ndarray):  # a member that is no .npy file comes back as bytes
        raise _damaged(f"{path}: {name}", "not a numpy array")
    return array


def _damaged(source: str, why: object) -> UserError:
    return UserError(f"{source} is damaged ({why}); write the file again with numpy.savez")


def _channels_first(x: Array, source: str) -> Array:
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


def _in_unit_range(x: Array, source: str) -> Float32[np.ndarray, "N C H W"]:
    """uint8 over 255; floats as they are. Nothing is clipped or scaled to fit."""
    if x.dtype == np.uint8:
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


def _whole(y: Array, source: str) -> Int64[np.ndarray, "N"]:
    if y.ndim != 1:
        raise UserError(f"{source} has shape {y.shape}; robench reads one label for each image: shape (N,)")
    if y.dtype.kind not in "iuf" or not (np.isfinite(y) & (y == np.floor(y))).all():
        raise UserError(f"{source} holds labels that are not whole numbers; number the classes 0, 1, 2, ...")
    if y.min() < 0:
        raise UserError(f"{source} holds the negative label {y.min():.0f}; number the classes 0, 1, 2, ...")
    return y.astype(np.int64)
