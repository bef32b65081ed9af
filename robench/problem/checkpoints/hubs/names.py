"""The names of published models, as users type them. Does not import torch."""

import importlib.util
import re
import sys
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from ....errors import UserError
from ...names import shown

FILE = "hf"
PACKAGES = ("timm", "torchvision", "robustbench")
FORMS = {
    FILE: "hf:USER/REPO, hf:USER/REPO@REVISION or hf:USER/REPO@REVISION/FILE",
    "timm": "timm:NAME, timm:NAME.TAG or timm:hf-hub:USER/REPO@REVISION",
    "torchvision": "torchvision:ARCHITECTURE or torchvision:ARCHITECTURE/WEIGHTS",
    "robustbench": "robustbench:DATASET/THREAT/NAME, like robustbench:cifar10/Linf/Carmon2019Unlabeled",
}
COMMIT = re.compile(r"[0-9a-f]{40}")
REPO = r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[^/@]+))?"
MAIN = "main"


@dataclass(frozen=True)
class Repo:
    """A repository of the hub at a revision: a branch, a tag or a commit."""

    name: str  # USER/REPO
    revision: str = MAIN

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> "Repo":
        """The same repository at a commit."""
        return replace(self, revision=commit)

    def __str__(self) -> str:
        return self.name if self.revision == MAIN else f"{self.name}@{quote(self.revision, safe='')}"


def scheme(text: str) -> str:
    """The word before the colon if it names a hub or a package, otherwise empty."""
    word = text.partition(":")[0]
    return word if word in FORMS and ":" in text else ""


def is_hub_file(text: str) -> bool:
    """Whether the text names a file of the Hugging Face Hub."""
    return scheme(text) == FILE


def package_of(text: str) -> str:
    """The package whose code makes this model; empty for files and other names."""
    return scheme(text) if scheme(text) in PACKAGES else ""


def hub_file(text: str) -> tuple[Repo, str]:
    """The repository and the file in `hf:USER/REPO@REVISION/FILE`, an empty file where none is named.

    Raises UserError for another text.
    """
    found = re.fullmatch(rf"hf:{REPO}(/(?P<file>.*))?", text, re.ASCII)
    if found is None or (found["file"] is not None and not is_plain(found["file"])):
        raise malformed(text)
    return Repo(found["repo"], unquote(found["revision"] or MAIN)), found["file"] or ""


def repo(text: str) -> Repo | None:
    """The repository in `USER/REPO@REVISION`; None for another text."""
    found = re.fullmatch(REPO, text, re.ASCII)
    return None if found is None else Repo(found["repo"], unquote(found["revision"] or MAIN))


def malformed(text: str) -> UserError:
    """The error for a name that does not have the form of its kind."""
    return UserError(f"{shown(text)} cannot be read; write {FORMS[scheme(text)]}")


def is_plain(file: str) -> bool:
    """Whether the name of a file in a repository is a path below the folder that it is stored in."""
    parts = PurePosixPath(file).parts
    plain = all(not part.startswith("..") and part[-1] not in ". " for part in parts)
    return bool(parts) and plain and file.isprintable() and file[0] != "/" and not set('\\:*?"<>|') & set(file)


def refuse_missing_package(text: str) -> None:
    """Raises UserError, with what to type, if the package that makes this model is not installed."""
    package = package_of(text)
    if package and package not in sys.modules and importlib.util.find_spec(package) is None:
        raise not_installed(text, package)


def not_installed(text: str, package: str) -> UserError:
    """The error for a package that is not installed."""
    return UserError(f"{shown(text)} needs {package}, which is not installed; type pip install 'robench[{package}]'")
