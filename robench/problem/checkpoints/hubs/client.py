"""The two requests to the Hugging Face Hub: the list of files of a repository, and a file. Does not import torch.

Addresses and headers: https://huggingface.co/docs/hub/api and huggingface_hub (utils/_http.py, file_download.py).
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import requests

from ....errors import UserError
from ...download import CHUNK, progress_bar, server
from ...names import shown
from .names import COMMIT, Repo, is_plain

ENDPOINT = "https://huggingface.co"
CONNECTING = 10.0  # seconds until a connection
WAITING = 20.0  # seconds without a byte
MAX_BYTES = 1 << 26  # of a list of files
BUSY = (408, 425, 429)  # states of a server that may answer later


class UnreachableError(Exception):
    """The hub gives no answer, or none that a hub gives."""


@dataclass(frozen=True)
class Entry:
    """A file in a repository: its size, and the hash that its repository states (empty if unknown)."""

    size: int | None = None
    digest: str = ""  # sha256 of large files, else git's hash of the content

    def hasher(self, size: int | None) -> Any:
        """The hash function of the digest, for a file of this size; None if there is nothing to compare with."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if self.digest and size is not None else None


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit."""

    commit: str
    files: dict[str, Entry]


def endpoint() -> str:
    """The address of the hub: HF_ENDPOINT, else the public one. Raises UserError if it is no address."""
    text = os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT
    try:
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return text
    except ValueError:  # unmatched brackets, or a port that is no number
        pass
    raise UserError(f"HF_ENDPOINT is no http(s) address; set it to one like {ENDPOINT}, or unset it")


def offline() -> bool:
    """Whether the user has switched the network off for the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def page(repo: Repo) -> str:
    """The address of a repository's page for a message, without a user name and a password of the hub."""
    return f"{urlunsplit(urlsplit(endpoint())._replace(netloc=server(endpoint())))}/{repo.name}"


def listing(repo: Repo) -> Listing:
    """The files of a repository, from the hub. Raises UnreachableError, or UserError if it has no such repository."""
    url = f"{endpoint()}/api/models/{repo.name}/revision/{quote(repo.revision, safe='')}?blobs=true"
    body = b""
    with _answer(url, repo) as response:
        for chunk in response.iter_content(CHUNK):
            body += chunk
            if len(body) > MAX_BYTES:
                raise UnreachableError("sends a list of files that is too long")
    try:
        found = read_listing(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnreachableError("sends a page instead of a list of files") from None
    if repo.pinned and found.commit != repo.revision:
        raise UnreachableError("lists the files of another commit")
    return found


def read_listing(answer: Any) -> Listing:
    """The files in the hub's answer; those whose names are no paths below a folder are left out.

    Raises ValueError, KeyError, TypeError or AttributeError for anything else.
    """
    commit = answer["sha"]
    if not COMMIT.fullmatch(commit):
        raise ValueError(commit)
    files = {}
    for file in answer["siblings"]:
        lfs = file.get("lfs") or {}
        size, digest = file.get("size"), lfs.get("sha256") or file.get("blobId") or ""
        if is_plain(file["rfilename"]):
            files[file["rfilename"]] = Entry(size if isinstance(size, int) else None, str(digest).lower())
    return Listing(commit, files)


def download(repo: Repo, file: str, entry: Entry, path: Path) -> None:
    """Stores a file of the hub; it appears under its name only when it is whole, with the digest of the list.

    Raises UnreachableError, or UserError if the hub refuses the file or it cannot be stored.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    except OSError as error:
        raise _not_stored(path, error) from None
    try:
        with os.fdopen(handle, "wb") as stored:
            fault = _transfer(repo, file, entry, stored)
        if fault:
            raise UserError(f"{server(endpoint())} sends {fault} for {file} of {repo}; try again, or name another file")
        os.chmod(name, 0o644)  # mkstemp makes files that only the owner can read
        os.replace(name, path)
    except OSError as error:
        raise _not_stored(path, error) from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _transfer(repo: Repo, file: str, entry: Entry, stored: Any) -> str:
    """Writes the content of a file; returns what is wrong with it."""
    url = f"{endpoint()}/{repo.name}/resolve/{quote(repo.revision, safe='')}/{quote(file)}"
    with _answer(url, repo, file) as response, progress_bar(file) as bar:
        stated = response.headers.get("Content-Length", "")
        encoded = "Content-Encoding" in response.headers
        size = entry.size if entry.size is not None else int(stated) if stated.isdigit() and not encoded else None
        digest, received = entry.hasher(size), 0
        bar.total = size or 0
        for chunk in response.iter_content(CHUNK):
            received += len(chunk)
            if size is not None and received > size:
                break
            if digest is not None:
                digest.update(chunk)
            stored.write(chunk)
            bar.update(len(chunk))
    if size is not None and received != size:
        return "a file of another size"
    return "a file with another checksum" if digest is not None and digest.hexdigest() != entry.digest else ""


@contextmanager
def _answer(url: str, repo: Repo, file: str = "") -> Iterator[requests.Response]:
    """The hub's answer. Raises UnreachableError if it has none, and UserError if it refuses."""
    try:
        # requests does not send the header on to another server that it is redirected to.
        with requests.get(url, headers=_headers(), timeout=(CONNECTING, waiting()), stream=True) as response:
            if response.status_code in BUSY or response.status_code >= 500:
                raise UnreachableError(f"answers HTTP {response.status_code}")
            if response.status_code != 200:
                raise _refusal(response, repo, file)
            yield response
    except requests.RequestException as error:
        raise UnreachableError(_reason(error)) from None


def _headers() -> dict[str, str]:
    secret = token()
    plain = endpoint().startswith("http:") and urlsplit(endpoint()).hostname not in ("localhost", "127.0.0.1", "::1")
    return {"Authorization": f"Bearer {secret}"} if secret and not plain else {}


def token() -> str:
    """The user's token: HF_TOKEN, else the file that `hf auth login` writes; empty without one. Never printed."""
    if given := os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return "".join(given.split())
    path = os.environ.get("HF_TOKEN_PATH") or home() / "token"
    try:
        return "".join(Path(path).read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return ""


def home() -> Path:
    """The folder of Hugging Face's own tools: HF_HOME, else in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(os.environ.get("HF_HOME") or f"{cache}/huggingface"))


def waiting() -> float:
    """The seconds without a byte after which a server is given up. Raises UserError if they cannot be read."""
    text = os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "")
    try:
        return max(0.1, min(float(text), 3600.0)) if text else WAITING
    except ValueError:
        raise UserError(f"HF_HUB_DOWNLOAD_TIMEOUT is {shown(text)}; set it to a number of seconds") from None


def _refusal(response: requests.Response, repo: Repo, file: str) -> UserError:
    """The error for an answer that is no file. The hub states the reason in a header."""
    reason, status, where = response.headers.get("X-Error-Code", ""), response.status_code, server(endpoint())
    if reason == "GatedRepo":
        how = "this token has no access yet" if token() else "set HF_TOKEN to a token of yours"
        return UserError(f"{repo.name} is gated: accept its conditions on {page(repo)} and {how}")
    if reason == "RevisionNotFound":
        return UserError(f"{repo.name} has no revision {shown(repo.revision)}; {page(repo)} lists what it has")
    if reason == "EntryNotFound":
        return UserError(f"{repo} has no file {shown(file)}; {page(repo)} lists its files")
    if status == 401 and token() and reason != "RepoNotFound":
        return UserError(f"{where} refuses the token; set HF_TOKEN to a valid one, or unset it")
    if status in (401, 403, 404):
        private = "your token has no access to it" if token() else "it is private: then set HF_TOKEN"
        return UserError(f"{where} has no model {repo.name} (is the name spelt as on its page?), or {private}")
    return UserError(f"{where} answers HTTP {status} for {repo}; try again later, or name a file on this machine")


def _reason(error: Exception) -> str:
    if isinstance(error, requests.Timeout) or "timed out" in str(error):  # in the middle of a file it has no class
        return "does not answer"
    if isinstance(error, requests.exceptions.SSLError):
        return "has no valid certificate"
    return "cannot be reached" if isinstance(error, requests.ConnectionError) else "breaks off"


def _not_stored(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be stored ({error.strerror or error}); make room, or set another cache folder")
