"""Label maps: files that map class names to outputs of a model, as for ImageNet."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError, unknown
from .arrays import MAX_CLASSES

LARGEST = 2**24  # bytes of a label map
SYNSET = re.compile(r"n[0-9]{8}")
FORMS = '{"0": ["n01440764", "tench"], ...}, {"tench": 0, ...}, ["tench", ...], or a text with a name on each line'


@dataclass(frozen=True)
class LabelMap:
    """The output of a model for each class name."""

    path: str
    outputs: Mapping[str, int]
    ambiguous: frozenset[str]  # names that several outputs have: crane is a bird and a machine
    classes: int

    def output(self, name: str) -> int:
        """The output for a class of this name. Raises UserError if there is none, or more than one."""
        key = _plain(name)
        if key in self.ambiguous:
            raise UserError(
                f"{self.path} has several outputs called {name!r}; use names that differ, such as synset ids"
            )
        if key not in self.outputs:
            raise unknown(f"class of {self.path}", name, list(self.outputs))
        return self.outputs[key]


def read(path: Path) -> LabelMap:
    """The label map in a file of one of the forms in `FORMS`. Raises UserError for any other file."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"the label map {path} is not a file; write it like {FORMS}")
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is too large for a label map; write it like {FORMS}")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"the label map {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"the label map {path} is not a text file; write it like {FORMS}") from None
    try:
        pairs = _of_json(json.loads(text)) if text.lstrip()[:1] in ("{", "[") else _of_lines(text)
        if not pairs or not all(0 <= number < MAX_CLASSES for number, _ in pairs):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"the label map {path} cannot be read; write it like {FORMS}") from None
    found: dict[str, set[int]] = {}
    for number, name in pairs:
        found.setdefault(_plain(name), set()).add(number)
    outputs = {name: min(numbers) for name, numbers in found.items()}
    ambiguous = frozenset(name for name, numbers in found.items() if len(numbers) > 1)
    return LabelMap(str(path), outputs, ambiguous, 1 + max(number for number, _ in pairs))


def _of_json(held: Any) -> list[tuple[int, str]]:
    """Each output with each of its names."""
    if isinstance(held, list):
        return [pair for number, names in enumerate(held) for pair in _named(number, names)]
    if all(isinstance(value, int) and not isinstance(value, bool) for value in held.values()):
        return [(value, key) for key, value in held.items()]
    return [pair for key, names in held.items() for pair in _named(int(key), names)]


def _named(number: int, names: Any) -> Iterable[tuple[int, str]]:
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise ValueError(f"no name: {names!r}")
    return [(number, name) for name in listed]


def _of_lines(text: str) -> list[tuple[int, str]]:
    """Each name with its line number from 0; for `n01440764 tench, Tinca tinca`, also the id alone."""
    pairs = []
    for number, line in enumerate(text.rstrip().splitlines()):
        name = line.strip()
        if not name:
            raise ValueError("an empty line")
        pairs.append((number, name))
        first = name.split()[0]
        if first != name and SYNSET.fullmatch(first):
            pairs.append((number, first))
    return pairs


def _plain(name: str) -> str:
    """The normalised name, equal for `great_white_shark` and `Great white shark`."""
    return " ".join(name.replace("_", " ").split()).lower()
