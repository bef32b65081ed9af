"""Callbacks of options and arguments that name files: a missing file is refused before a command imports its work."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..catalogue import catalogue
from ..problem.checkpoints import locating
from ..problem.checkpoints.cards import read_card
from ..problem.missing import ATTACK, FACTORY, missing, missing_code

Callback = Callable[[click.Context, click.Parameter, Any], Any]


def _each(refuse: Callable[[Any], object]) -> Callback:
    """A callback that lets `refuse` check the value, or each of several, and returns what was given."""

    def callback(_: click.Context, __: click.Parameter, given: Any) -> Any:
        for value in given if isinstance(given, tuple) else (given,):
            if value:
                refuse(value)
        return given

    return callback


def _file(kind: str) -> Callback:
    def refuse(path: Path) -> None:
        if not os.path.lexists(path):
            raise missing(kind, path)

    return _each(refuse)


def _code(option: str, form: str) -> Callback:
    def refuse(text: str) -> None:
        target = re.match(r"\s*(.*?\.py):", text, re.DOTALL)
        if target is not None and not Path(target[1]).expanduser().is_file():
            raise missing_code(f"{option} {text}", target[1], form)

    return _each(refuse)


def _refuse_data(text: str) -> None:
    file = re.sub(r"(?<=\.npz):.*", "", text, flags=re.IGNORECASE | re.DOTALL)
    there = os.path.exists(os.path.expanduser(file))
    if file.lower().endswith(".npz"):
        if not there:
            raise missing("images", file)
    elif "/" in text and not there and text.partition("/")[0] not in {entry.name for entry in catalogue()["data"]}:
        raise missing("folder", text)


def _refuse_protocol(text: str) -> None:
    if text.endswith(".toml") and not Path(text).is_file():
        raise missing("protocol", text)


def _refuse_card(path: Path) -> None:
    if not os.path.lexists(path):
        read_card(path)


run, baseline, claims = _file("run"), _file("baseline"), _file("claims")
data, protocol, card = _each(_refuse_data), _each(_refuse_protocol), _each(_refuse_card)
checkpoint = _each(locating.existing)
architecture, attack = _code("--arch", FACTORY), _code("--attack", ATTACK)
