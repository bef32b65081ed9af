"""The user's own images: `FILE.npz` with arrays `x` and `y`. Never unpickles."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError, first_line
from .. import npy
from ..missing import missing
from ..split import Split
from .arrays import Array, split_of_arrays
from .files import refuse_page

LARGEST = 2**28  # bytes that an array in any file may unpack to, as float32; larger arrays only in large files
PACKED = 50  # how many times larger than the whole file a larger array may be: images seldom compress to a tenth
FLOAT = np.dtype(np.float32)  # as which images of 8 bits are used


def read(path: Path, part: str = "test") -> Split:
    """The examples in the arrays `x` and `y`, else in `x_test` and `y_test` (or `x_train`, `y_train`).

    `arrays.split_of_arrays` documents the arrays; a number `classes` beside them gives the number of classes. Raises
    UserError with one sentence for other contents.
    """
    held = names(path)
    plain = is_undivided(path)
    x_name, y_name = ("x", "y") if plain else (f"x_{part}", f"y_{part}")
    x, y = arrays(path, x_name, y_name)
    classes = _number_of_classes(path) if "classes" in held else None
    name = path.name if plain or part == "test" else f"{path.name}:{part}"
    return split_of_arrays(name, x, y, str(path), classes=classes, x_name=x_name, y_name=y_name)


def _number_of_classes(path: Path) -> int:
    (array,) = arrays(path, "classes")
    if array.size != 1 or array.dtype.kind not in "iu" or not 1 <= int(array.item()) <= 10**6:
        raise UserError(f"{path}: classes is not the number of classes; save one whole number, as classes=10")
    return int(array.item())


def is_undivided(path: Path) -> bool:
    """Whether the file holds `x` and `y`, so that it has no separate test part."""
    return {"x", "y"} <= set(names(path))


def names(path: Path) -> list[str]:
    """The names of the arrays in the file. Raises UserError if it is missing, damaged or not an `.npz` file."""
    if not path.is_file():
        raise missing("images", path)
    if not zipfile.is_zipfile(path):
        refuse_page(path)
        raise UserError(
            f"{path} is damaged or not an .npz archive; write one with numpy.savez(path, x=images, y=labels)"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            return list(archive.files)
    except npy.DAMAGED as error:
        raise _damaged(str(path), first_line(error)) from None


def arrays(path: Path, *wanted: str) -> tuple[Array, ...]:
    """The named arrays of a file. Raises UserError if they are missing, unreadable, hold Python objects, or unpack to
    far more than the size of the file.
    """
    held = names(path)
    missing = [name for name in wanted if name not in held]
    if len(alone := [name for name in ("x", "y") if name in held]) == 1 and missing:
        missing = ["y" if alone == ["x"] else "x"]  # of the two that are read first, one is there
    if missing:
        raise UserError(
            f"{path} has no array {' and no array '.join(missing)}; it holds {', '.join(held) or 'none'}, "
            "and robench reads x and y (or x_test and y_test)"
        )
    with np.load(path, allow_pickle=False) as archive:
        return tuple(_array(archive, name, path) for name in wanted)


def _array(archive: Any, name: str, path: Path) -> Array:
    try:
        _refuse_oversized(archive.zip, name, path)
        array = archive[name]
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path}: {name} does not fit into memory; save fewer images") from None
    except npy.DAMAGED as error:
        raise _damaged(f"{path}: {name}", first_line(error)) from None
    if not isinstance(array, np.ndarray):  # numpy returns other members as bytes
        raise _damaged(f"{path}: {name}", "not a numpy array")
    return array


def _refuse_oversized(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    """Raises UserError for an array that is too large, by the sizes that the archive and the array's header declare."""
    member = name if name in archive.namelist() else f"{name}.npy"
    declared, limit = archive.getinfo(member).file_size, max(LARGEST, PACKED * path.stat().st_size)
    if declared > limit:
        raise _oversized(path, name, declared)
    with archive.open(member) as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise ValueError("not a numpy array")
    with archive.open(member) as file:
        shape, _, dtype = npy.header(file)
    if dtype.hasobject:
        raise UserError(
            f"{path}: {name} holds Python objects, which robench never unpickles; "
            "save it as numbers, all images of one size"
        )
    if npy.size(shape, dtype) > declared:
        raise ValueError(f"its header declares {shape} of {dtype}, more than it holds")
    if (floats := npy.size(shape, FLOAT)) > limit:
        raise _oversized(path, name, floats)


def _oversized(path: Path, name: str, size: int) -> UserError:
    return UserError(
        f"{path}: {name} unpacks to {size / 1e9:.1f} GB from a file of {path.stat().st_size / 1e6:.1f} MB, more than"
        " robench unpacks; save fewer images, or without compression"
    )


def _damaged(source: str, why: object) -> UserError:
    return UserError(f"{source} is damaged ({why}); write the file again with numpy.savez")
