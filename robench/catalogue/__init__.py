"""What robench offers, by kind: attacks, threats, protocols, recipes, data and architectures. Does not import torch.

The entries lie in `catalogue.json`, so that a list is printed at once. `python -m robench.catalogue` writes the file
again, from the classes; a test compares both.
"""

from functools import cache
from pathlib import Path

import msgspec

FILE = Path(__file__).with_name("catalogue.json")


class Setting(msgspec.Struct, frozen=True):
    """A setting of an attack or a recipe, as text."""

    name: str
    default: str
    values: str  # which it takes
    about: str = ""


class Entry(msgspec.Struct, frozen=True):
    """One thing that a user can name."""

    name: str
    summary: str  # one line, with its source
    facts: dict[str, str] = {}  # by their names; a list shows some of them
    about: str = ""  # paragraphs
    settings: tuple[Setting, ...] = ()
    details: str = ""  # laid out already
    example: str = ""  # a command
    also: tuple[str, ...] = ()  # other names


@cache
def catalogue() -> dict[str, tuple[Entry, ...]]:
    """The entries of each kind."""
    return msgspec.json.decode(FILE.read_bytes(), type=dict[str, tuple[Entry, ...]])
