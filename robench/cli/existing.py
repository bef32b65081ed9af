"""Refuses files that are named and missing, before a command imports its work."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..catalogue import catalogue
from ..errors import UserError
from ..problem.checkpoints import locating
from ..problem.checkpoints.cards import read_card
from ..problem.checkpoints.hubs.names import is_hub_file, package_of
from ..problem.missing import ATTACK, FACTORY, missing, missing_code


def refuse_missing(options: Mapping[str, Any], runs: Iterable[Path] = ()) -> None:
    """Raises UserError if one of these run files, or a file that an option of a command names, does not exist."""
    for path in runs:
        _file("run", path)
    for name, refuse in _REFUSE.items():
        given = options.get(name)
        for value in given if isinstance(given, tuple) else (given,):
            if value:
                refuse(value)


def _file(kind: str, path: Path) -> None:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise missing(kind, path) from None
    except PermissionError:
        return  # the command says so


def _code(option: str, text: str, form: str) -> None:
    file = re.match(r"\s*(.*?\.py):", text, re.DOTALL)
    if file is not None and not Path(file[1]).expanduser().is_file():
        raise missing_code(f"{option} {text}", file[1], form)


def _data(text: str) -> None:
    file = re.sub(r"(?<=\.npz):.*", "", text, flags=re.IGNORECASE | re.DOTALL)
    there = os.path.exists(os.path.expanduser(file))
    if file.lower().endswith(".npz"):
        if not there:
            raise missing("images", file)
    elif "/" in text and not there and text.partition("/")[0] not in {entry.name for entry in catalogue()["data"]}:
        raise missing("folder", text)


def _protocol(text: str) -> None:
    if text.endswith(".toml") and not Path(text).is_file():
        raise missing("protocol", text)


def _card(path: Path) -> None:
    if not os.path.lexists(path):
        read_card(path)


def _other_model(text: str) -> None:
    """A model that may not be needed, so one of a hub is not sought."""
    if not is_hub_file(text) and not package_of(text):
        locating.existing(text)


def _start(text: str) -> None:
    if package_of(text):
        raise UserError(f"--from {text} is a model of a package; training starts from a file, like one of hf:USER/REPO")
    locating.existing(text)


_REFUSE: dict[str, Callable[[Any], object]] = {
    "baseline_path": lambda path: _file("baseline", path),
    "checkpoint": locating.existing,
    "baseline_model": _other_model,
    "start": _start,
    "data": _data,
    "pseudo_labelled": _data,
    "protocol": _protocol,
    "arch": lambda text: _code("--arch", text, FACTORY),
    "baseline_arch": lambda text: _code("--baseline-arch", text, FACTORY),
    "attacks": lambda text: _code("--attack", text, ATTACK),
    "files": lambda path: _file("claims", path),
    "card": _card,
    "cards": _card,
}
"""Checks by the names of parameters, in their order."""
