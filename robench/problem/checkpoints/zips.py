"""Lists the entries of zip files, as PyTorch and NumPy write them, and checks their sizes before unpacking."""

import zipfile
from pathlib import Path

from ...errors import UserError

AGAIN = "copy or download it again"
UNPACKED = 2**28  # bytes that any zip file may unpack to
RATIO = 20  # by which larger files may grow: weights compress to a half, but zeros to a thousandth


def entries(path: Path) -> list[zipfile.ZipInfo]:
    """The entries. Raises UserError if the file is damaged, encrypted, or would unpack to far more than its size."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        raise UserError(f"{path} is cut off or damaged; {AGAIN}") from None
    if any(entry.flag_bits & 1 for entry in found):
        raise UserError(f"{path} is a zip file with a password; unpack it and name the checkpoint in it")
    unpacked = sum(entry.file_size for entry in found)
    if unpacked > max_unpacked(path.stat().st_size):
        raise too_large(path, f"{unpacked / 1e6:,.0f} MB")
    return found


def max_unpacked(size: int) -> int:
    """The number of bytes that a file of this size may unpack to."""
    return max(UNPACKED, RATIO * size)


def too_large(path: Path, unpacked: str) -> UserError:
    """The error for a file that would unpack to far more than its size."""
    return UserError(
        f"{path} has {path.stat().st_size / 1e6:,.1f} MB and would unpack to {unpacked}, unlike any weights; it was "
        "not unpacked, get the file from its source again"
    )


def names(found: list[zipfile.ZipInfo]) -> set[str]:
    """The names of the entries, each in full and without the archive's own folder."""
    full = [entry.filename for entry in found]
    # torch puts everything into one folder of any name; torch.export did not before torch 2.8.
    return {*full, *(name.partition("/")[2] for name in full)}
