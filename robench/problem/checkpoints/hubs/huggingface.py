"""Finds the file that `hf:USER/REPO@REVISION/FILE` names: in the cache, or on the hub. Does not import torch."""

import json
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from ....errors import UserError
from ... import durable
from ...download import server
from ...names import shown
from .client import Entry, Listing, UnreachableError, download, endpoint, listing, offline
from .names import Repo, hub_file
from .store import Stored

INDEX = ".index.json"
PREFERRED = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
"""The usual names of weights, each before others of its kind."""
KINDS = ((".safetensors",), (".pt", ".pth", ".ckpt", ".bin", ".tar", ".pkl"), (".onnx",), (".pt2",), (".npz", ".mat"))
"""Suffixes of weights, in the order in which they are taken."""
PART = re.compile(r"-\d{5}-of-\d{5}\.")
TRAINING = re.compile(r"(training_args|optimizer|optimiser|scheduler|scaler|rng_state|random_states)", re.IGNORECASE)
"""Files that training scripts store beside the weights."""
CONFIGS = ("config.json", "preprocessor_config.json")
MAX_BYTES = 1 << 24  # of a file of settings
SHOWN = 5  # files in a message


@dataclass(frozen=True)
class HubFile:
    """A file of the hub on this machine, with its commit."""

    name: str  # hf:USER/REPO@COMMIT/FILE
    repo: Repo  # at the commit
    path: Path
    sha256: str
    configs: dict[str, Any] = field(default_factory=dict)  # the content of CONFIGS, where the repository has them
    notes: tuple[str, ...] = ()


_FOUND: dict[tuple[str, str, Path], HubFile] = {}
"""What this process has found: a branch that moves meanwhile must not give an evaluation two models."""


def resolve(text: str) -> HubFile:
    """The file that the text names, downloaded if it is not on this machine. Raises UserError."""
    repo, file = hub_file(text)
    key = (text, endpoint(), Stored(repo).folder)
    if key not in _FOUND:
        found = _resolved(text, repo, file)
        _FOUND[key] = _FOUND[(found.name, *key[1:])] = found
    return _FOUND[key]


def is_here(text: str) -> bool:
    """Whether all that the text names is on this machine, at the commit in the text. Downloads nothing."""
    repo, file = hub_file(text)
    found = Stored(repo).listing() if repo.pinned else None
    if found is None or file not in found.files:
        return False
    stored = Stored(repo)

    def here(names: list[str]) -> bool:
        return all(stored.has(found.commit, name, found.files[name]) for name in names)

    return here(_needed(file, found.files)) and here(_parts(stored.path(found.commit, file), file, found.files))


def commit_of(repo: Repo) -> tuple[Listing, tuple[str, ...]]:
    """The files of a repository at the commit of its revision, and a note if they are those of an earlier time.

    Raises UserError if neither the hub nor the cache has them.
    """
    stored = Stored(repo)
    known = stored.listing()
    if known is not None and (repo.pinned or offline()):
        return known, ()
    where, known = server(endpoint()), known or stored.shared_listing()
    if known is not None and offline():
        return known, (f"{repo} is taken from the cache of Hugging Face's tools, at commit {known.commit[:12]}",)
    if offline():
        raise UserError(f"HF_HUB_OFFLINE is set and {repo} is not in the cache; unset it, or name a file")
    try:
        found = listing(repo)
    except UnreachableError as error:
        if known is None:
            raise UserError(
                f"{where} {error}, and {repo} is not in the cache; try again later, or name a file"
            ) from None
        return known, (f"{where} {error}: {repo} is taken from the cache, at commit {known.commit[:12]}",)
    stored.store(found)
    return found, ()


def _resolved(text: str, repo: Repo, file: str) -> HubFile:
    found, notes = commit_of(repo)
    file = _chosen(text, repo, found.files, file)
    pinned = repo.at(found.commit)
    fetched = {name: _fetched(pinned, found, name) for name in _needed(file, found.files)}
    path = fetched[file]
    for part in _parts(path, file, found.files):
        _fetched(pinned, found, part)
    configs = {name: _settings(fetched[name]) for name in CONFIGS if name in fetched}
    digest = found.files[file].digest
    sha256 = digest if len(digest) == 64 else durable.sha256(path)
    return HubFile(f"hf:{pinned}/{file}", pinned, path, sha256, configs, notes)


def _chosen(text: str, repo: Repo, files: dict[str, Entry], file: str) -> str:
    """The file to read. Raises UserError if there is none, or if several are alike."""
    if file:
        if file in files:
            return file
        weights = [name for kind in KINDS for name in files if name.endswith(kind)]
        near = get_close_matches(file, files, n=1, cutoff=0.6) or weights[:1]
        hint = f"did you mean hf:{repo}/{near[0]}?" if near else "it has no weights"
        raise UserError(f"{repo} has no file {shown(file)}; {hint}")
    for kind in KINDS:
        usual = next((name for name in PREFERRED if name in files and name.removesuffix(INDEX).endswith(kind)), None)
        if usual is not None:
            return usual
        alike = [n for n in sorted(files) if n.endswith(kind) and not PART.search(n) and not TRAINING.search(n)]
        if len(alike) == 1:
            return alike[0]
        if alike:
            listed = ", ".join(map(shown, alike[:SHOWN])) + (", ..." if len(alike) > SHOWN else "")
            raise UserError(f"{repo} has several files of weights ({listed}); name one, like hf:{repo}/{alike[0]}")
    raise UserError(f"{text} has no file of weights that robench reads; name a repository with a .safetensors file")


def _needed(file: str, files: dict[str, Entry]) -> list[str]:
    """The file, the settings of the repository, and the card of a model that robench trained, beside its weights."""
    return [file, *(name for name in (*CONFIGS, str(PurePosixPath(file).with_suffix(".toml"))) if name in files)]


def _parts(index: Path, file: str, files: dict[str, Entry]) -> list[str]:
    """The parts that an index of weights lists. What is wrong with the index is found when it is read."""
    content = _settings(index) if file.endswith(INDEX) else None
    named = content.get("weight_map") if isinstance(content, dict) else None
    parts = {part for part in named.values() if isinstance(part, str)} if isinstance(named, dict) else set()
    paths = [str(PurePosixPath(file).with_name(part)) for part in sorted(parts) if part and "/" not in part]
    return [path for path in paths if path in files]


def _fetched(repo: Repo, found: Listing, file: str) -> Path:
    """The path of a file, downloaded if it is not on this machine as the list states it."""
    path = Stored(repo).path(found.commit, file)
    if Stored(repo).has(found.commit, file, found.files[file]):
        return path
    if offline():
        raise UserError(f"HF_HUB_OFFLINE is set and {file} of {repo} is not in the cache; unset it, or name a file")
    try:
        download(repo, file, found.files[file], path)
    except UnreachableError as error:
        raise UserError(
            f"{server(endpoint())} {error}, and {file} of {repo} is not in the cache; try again later, or name a file"
        ) from None
    return path


def _settings(path: Path) -> Any:
    """The content of a JSON file; None if it is none."""
    try:
        return json.loads(durable.read(path, MAX_BYTES))
    except (UserError, ValueError, RecursionError):
        return None
