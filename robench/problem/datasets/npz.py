"""The user's own images: `FILE.npz` with arrays `x` and `y`. Never unpickles."""

import lzma
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ..missing import missing
from ..split import Split
from .arrays import Array, split_of_arrays
from .files import refuse_page

LARGEST = 2**31  # bytes of an array that any file may hold; larger arrays only in large files
PACKED = 50  # how many times larger than the whole file a larger array may be: images seldom compress to a tenth


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
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(str(path), error) from None


def arrays(path: Path, *wanted: str) -> tuple[Array, ...]:
    """The named arrays of a file. Raises UserError if they are missing, unreadable, hold Python objects, or unpack to
    far more than the size of the file.
    """
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
        _refuse_oversized(archive.zip, name, path)
        array = archive[name]
    except UserError:
        raise
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise _damaged(f"{path}: {name}", error) from None
        raise UserError(
            f"{path}: {name} holds Python objects, which robench never unpickles; "
            "save it as numbers, all images of one size"
        ) from None
    except MemoryError:
        raise UserError(f"{path}: {name} does not fit into memory; save fewer images") from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        raise _damaged(f"{path}: {name}", error) from None
    if not isinstance(array, np.ndarray):  # numpy returns other members as bytes
        raise _damaged(f"{path}: {name}", "not a numpy array")
    return array


def _refuse_oversized(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    """Raises UserError for an array that is too large, by the sizes that the archive and the array's header declare."""
    member = name if name in archive.namelist() else f"{name}.npy"
    declared = archive.getinfo(member).file_size
    file_size = path.stat().st_size
    if declared > max(LARGEST, PACKED * file_size):
        raise UserError(
            f"{path}: {name} unpacks to {declared / 1e9:.1f} GB from a file of {file_size / 1e6:.1f} MB, more than"
            " robench unpacks; save fewer images, or as uint8"
        )
    with archive.open(member) as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise ValueError("not a numpy array")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version > (2, 0):  # numpy has no public reader for later versions
            return
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > declared:
        raise ValueError(f"its header declares {shape} of {dtype}, more than it holds")


def _damaged(source: str, why: object) -> UserError:
    return UserError(f"{source} is damaged ({why}); write the file again with numpy.savez")
