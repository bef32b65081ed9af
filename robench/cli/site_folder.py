"""Folders of files that a command makes: written file by file, and without those that an earlier command made."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ..errors import UserError
from ..problem import durable

MANIFEST = "manifest.json"  # at the top of the folder: the files of a site with their hashes
SCHEMA = "robench.site/1"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(/[A-Za-z0-9][A-Za-z0-9.-]*)*")
MAX_BYTES = 256 << 20


class Manifest(msgspec.Struct, frozen=True):
    """The files of a site: each path below the folder with the SHA-256 of what was written there."""

    schema: str
    files: list[tuple[str, str]]


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes each file atomically. Other files of the folder stay. Raises UserError if the folder cannot be used."""
    _refuse_links(folder, files)
    try:
        for parent in sorted({(folder / name).parent for name in files}):
            parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror}; name another folder") from None
    for name, content in files.items():
        if not _holds(folder / name, content):
            durable.replace(folder / name, content)


def write_site(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes a site, and removes the files of the site that was there before, as far as nothing has changed them.

    The manifest of the folder lists them. Files that it does not list stay, and so does all outside the folder.
    """
    former = _former(folder)
    current = [(name, hashlib.sha256(content).hexdigest()) for name, content in sorted(files.items())]
    # After a crash in between the manifest lists every file of both.
    both = sorted({*former, *current})
    write_files(folder, {MANIFEST: _encoded(both), **files})
    for name, digest in former:
        if name not in files:
            _remove(folder, name, digest)
    write_files(folder, {MANIFEST: _encoded(current)})


def is_site(folder: Path) -> bool:
    """Whether a site lies in the folder."""
    try:
        return bool(_former(folder))
    except UserError:
        return False


def _encoded(files: list[tuple[str, str]]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(Manifest(SCHEMA, files)), indent=1) + b"\n"


def _former(folder: Path) -> list[tuple[str, str]]:
    """The files that the manifest of the folder lists; none where there is no manifest."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return []
    refused = UserError(f"{path} is not a manifest of robench; remove it, or name another folder with --out")
    try:
        manifest = msgspec.json.decode(durable.read(path, MAX_BYTES), type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise refused from None
    if path.is_symlink() or manifest.schema != SCHEMA or not all(NAME.fullmatch(name) for name, _ in manifest.files):
        raise refused
    return manifest.files


def _remove(folder: Path, name: str, digest: str) -> None:
    """Removes a file of a former site, if it is what was written then, and folders that this leaves empty."""
    path = folder / name
    if _linked(folder, name) or path.is_symlink() or not path.is_file() or durable.sha256(path) != digest:
        return
    try:
        path.unlink()
        for parent in path.relative_to(folder).parents:
            if parent != Path() and not any((folder / parent).iterdir()):
                (folder / parent).rmdir()
    except OSError as error:
        raise UserError(f"{path} cannot be removed: {error.strerror}; remove it yourself") from None


def _refuse_links(folder: Path, files: Mapping[str, bytes]) -> None:
    """Raises UserError if a file would be written through a link that lies in the folder."""
    for name in files:
        if _linked(folder, name):
            raise UserError(f"{folder / name} lies behind a link; name another folder")


def _linked(folder: Path, name: str) -> bool:
    """Whether a folder between this one and the file is a link."""
    return any((folder / parent).is_symlink() for parent in Path(name).parents if parent != Path())


def _holds(path: Path, content: bytes) -> bool:
    """Whether a plain file has this content already."""
    try:
        return not path.is_symlink() and path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False
