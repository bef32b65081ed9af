"""Where data files are looked for, and whether they are what they should be. Knows no format and no network."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ..cache import BEGINNING, cache_folder, is_html

REPLACE = "replace it, or delete it to have it downloaded again"


@dataclass(frozen=True)
class Places:
    """The folders that may hold data: the user's own comes first, the cache also takes downloads."""

    own: Path | None
    cache: Path

    @classmethod
    def of_this_user(cls) -> "Places":
        """ROBENCH_DATA if it is set, and the cache folder of this account.

        Raises UserError when ROBENCH_DATA is not a folder.
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
        """In the order they are looked at."""
        return (self.cache,) if self.own is None else (self.own, self.cache)


def find(root: Path, folders: Iterable[str], names: Sequence[str]) -> list[Path] | None:
    """The named files from the first of `root`'s subfolders that holds them all; "" is `root` itself."""
    for folder in folders:
        paths = [root / folder / name for name in names]
        if all(path.is_file() for path in paths):
            return paths
    return None


def content(path: Path) -> bytes:
    """The bytes of a file. Raises UserError when it cannot be read, or is an HTML page under the file's name."""
    refuse_page(path)
    return path.read_bytes()


def refuse_page(path: Path) -> None:
    """Raises UserError when the file is an HTML page, or cannot be read."""
    try:
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if is_html(beginning):
        raise UserError(f"{path} is an HTML page, not the file of that name; delete it and download the file again")


def verified(data: bytes, md5: str, source: str) -> bytes:
    """`data`, when it is byte for byte what was published.

    Raises UserError, naming `source`, when it is not.
    """
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError(f"{source} is not what was published (md5 {found} instead of {md5}); {REPLACE}")
    return data


def damaged(source: str, why: object) -> UserError:
    """A file that breaks off or does not unpack."""
    return UserError(f"{source} is damaged ({why}); {REPLACE}")
