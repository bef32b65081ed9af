"""Finds data files, and verifies their checksums. Independent of image formats, and does not use the network."""

import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import UserError
from ..cache import BEGINNING, cache_folder, is_html

REPLACE = "replace it, or delete it, and run the command again"


@dataclass(frozen=True)
class Places:
    """The folders that may hold data: first the user's own, then the cache, which also takes downloads."""

    own: Path | None
    cache: Path

    @classmethod
    def of_this_user(cls) -> "Places":
        """The folder ROBENCH_DATA, if set, and the cache folder of this user account.

        Raises UserError if ROBENCH_DATA is not a folder.
        """
        text = os.environ.get("ROBENCH_DATA")
        own = Path(os.path.expanduser(text)) if text else None
        if own is not None and not own.is_dir():
            raise UserError(
                f"ROBENCH_DATA is {text!r}, which is not a folder; set it to the folder with the data files"
            )
        return cls(own, cache_folder())

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders, in the order in which they are searched."""
        return (self.cache,) if self.own is None else (self.own, self.cache)


def find(root: Path, folders: Iterable[str], names: Sequence[str]) -> list[Path] | None:
    """The named files in the first of `root`'s subfolders that holds them all, else None; "" is `root` itself."""
    for folder in folders:
        paths = [root / folder / name for name in names]
        if all(path.is_file() for path in paths):
            return paths
    return None


def content(path: Path) -> bytes:
    """The bytes of a file. Raises UserError if it cannot be read, or is an HTML page under the file's name."""
    refuse_page(path)
    return path.read_bytes()


def refuse_page(path: Path) -> None:
    """Raises UserError if the file is an HTML page, or cannot be read."""
    try:
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if is_html(beginning):
        raise UserError(f"{path} is an HTML page, not the file of that name; delete it and download the file again")


def verified(data: bytes, md5: str, source: str) -> bytes:
    """The data, if they have the published checksum.

    Raises UserError, which begins with `source`, if they do not.
    """
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError(f"{source} is not the published file (md5 {found} instead of {md5}); {REPLACE}")
    return data


def members(archive: Path, wanted: set[str], mode: Literal["r:", "r:gz"]) -> Iterator[tuple[str, bytes]]:
    """The wanted files in a tar archive, in any folder. Nothing is written to disk.

    Raises UserError if the archive is damaged or lacks a file.
    """
    refuse_page(archive)
    missing = set(wanted)
    try:
        with tarfile.open(archive, mode) as tar:
            for member in tar:
                name = Path(member.name).name
                if name in missing and member.isfile() and (file := tar.extractfile(member)):
                    missing.remove(name)
                    yield name, file.read()
                if not missing:
                    return
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise damaged(str(archive), error) from None
    raise damaged(str(archive), f"it lacks {' and '.join(sorted(missing))}")


def unverified(path: Path, what: str) -> str:
    """The caution for a file whose images are used without a comparison, because no checksum is published."""
    return f"{path.name} holds {what}; no checksum is published for it, so it is used as it is"


def damaged(source: str, why: object) -> UserError:
    """The error for a file that is truncated or does not unpack."""
    return UserError(f"{source} is damaged ({why}); {REPLACE}")
