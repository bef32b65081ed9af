"""The files of the hub on this machine: robench's own cache folder, and that of Hugging Face's own tools.

Below `hub/SERVER/USER/REPO` of the cache folder lie `refs/REVISION` (the commit of a branch or tag when it was last
requested), `COMMIT.json` (the list of files) and `COMMIT/FILE`. Does not import torch.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from ....errors import UserError
from ... import durable
from ...cache import cache_folder
from ...download import server
from .client import Entry, Listing, endpoint, home
from .names import COMMIT, Repo, is_plain


@dataclass(frozen=True)
class Stored:
    """The stored files of a repository."""

    repo: Repo

    @property
    def folder(self) -> Path:
        """The folder of the repository in robench's cache."""
        return cache_folder() / "hub" / server(endpoint()).replace(":", "_") / self.repo.name

    @property
    def shared(self) -> Path:
        """The folder of the repository in the cache of Hugging Face's own tools."""
        own = os.environ.get("HF_HUB_CACHE") or home() / "hub"
        return Path(os.path.expanduser(own)) / f"models--{self.repo.name.replace('/', '--')}"

    def listing(self) -> Listing | None:
        """The list of files as it was last stored; None if the revision was never requested on this machine."""
        commit = self._commit()
        if commit is None:
            return None
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            files = json.loads((self.folder / f"{commit}.json").read_bytes())["files"]
            return Listing(commit, {name: Entry(**entry) for name, entry in files.items() if is_plain(name)})
        return None

    def shared_listing(self) -> Listing | None:
        """The files that Hugging Face's own tools have stored: some of the repository's.

        None without any, and without config.json: its network and normalisation would then be guessed.
        """
        commit = self._commit()
        found = None if commit is None else self._of_shared(commit)
        return found if found is not None and "config.json" in found.files else None

    def store(self, listing: Listing) -> None:
        """Keeps the list of files, and the commit of the revision."""
        text = json.dumps({"files": {name: asdict(entry) for name, entry in listing.files.items()}})
        try:
            (self.folder / "refs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be made: {error.strerror or error}") from None
        durable.replace(self.folder / f"{listing.commit}.json", text.encode())
        if not self.repo.pinned:
            durable.replace(self._ref, listing.commit.encode())

    def path(self, commit: str, file: str) -> Path:
        """The path under which a file of a commit is stored."""
        return self.folder / commit / file

    def has(self, commit: str, file: str, entry: Entry) -> bool:
        """Whether a file of a commit is stored as the list states it; one of the shared folder is linked here."""
        path, shared = self.path(commit, file), self.shared / "snapshots" / commit / file
        with suppress(OSError):
            if is_stated(path, entry):
                return True
        with suppress(OSError):
            if is_stated(shared, entry):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.symlink_to(shared.resolve())
                return True
        return False

    @property
    def _ref(self) -> Path:
        return self.folder / "refs" / quote(self.repo.revision, safe="")

    def _commit(self) -> str | None:
        """The commit of the revision, as it was last stored."""
        if self.repo.pinned:
            return self.repo.revision
        for ref in (self._ref, self.shared / "refs" / self.repo.revision):
            with suppress(OSError, ValueError):
                if COMMIT.fullmatch(commit := ref.read_text(encoding="ascii").strip()):
                    return commit
        return None

    def _of_shared(self, commit: str) -> Listing | None:
        """The files in the shared folder. Links lead to files that are named by their digest."""
        folder = self.shared / "snapshots" / commit
        try:
            paths = [path for path in folder.rglob("*") if path.is_file()]
        except OSError:
            return None
        digests = {path: path.resolve().name for path in paths if path.is_symlink()}
        entries = {
            path.relative_to(folder).as_posix(): Entry(path.stat().st_size, digests.get(path, "")) for path in paths
        }
        return Listing(commit, entries) if entries else None


def is_stated(path: Path, entry: Entry) -> bool:
    """Whether a stored file is the one that the list of files states."""
    hasher = entry.hasher(path.stat().st_size)
    if hasher is None:
        return path.is_file()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return bool(hasher.hexdigest() == entry.digest)
