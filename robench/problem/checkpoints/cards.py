"""A model's card: what its weights are, how they were made, what they are claimed and measured to do.

NAME.toml beside NAME.safetensors; the cards of bundled models are in zoo.py. Knows nothing of torch.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ... import renames
from ...errors import UserError
from .. import names
from ..durable import replace, sha256


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """What a source says of such a model under one set of threats."""

    source: str  # the paper and its table
    threats: tuple[str, ...]
    accuracy: dict[str, float]  # fractions, of clean, a threat, union, average


class Card(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Read from and written to TOML. Keys that are not listed are passed over, so that newer cards stay readable."""

    name: str  # data set first, hyphens: digits-adv-linf
    data: str  # digits
    architecture: str  # a registered name, or the file.py:factory that was used
    normalisation: str = "none"  # or MEAN/STD
    shape: tuple[int, ...]  # channels, height, width
    classes: int
    weights: str  # a file in the card's folder
    sha256: str  # of that file
    protocol: str = ""
    recipe: str = ""
    command: str = ""
    seed: int | None = None
    minutes: float | None = None
    minutes_before: float | None = None  # of the training of the model that this one went on from, and of those before
    hardware: str = ""
    commit: str = ""  # of robench, where it was trained from a source checkout
    notes: str = ""
    settings: dict[str, Any] = {}  # msgspec copies defaults
    validation: dict[str, Any] = {}  # on training images that were kept out, at the end of the training
    claimed: dict[str, Claimed] = {}  # a name for each
    measured: dict[str, Any] = {}


def minutes_in_all(card: Card) -> float | None:
    """Of this model's training and of those that it rests on; None where its own is not known."""
    return None if card.minutes is None else card.minutes + (card.minutes_before or 0)


def read_card(path: Path) -> Card:
    """The card in a TOML file. Raises UserError naming the key that is missing or wrong, or a name that is a path."""
    try:
        card = msgspec.toml.decode(path.read_bytes(), type=Card)
    except OSError as error:
        raise UserError(f"the card {path} cannot be read: {error.strerror or error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the card {path} is not one that robench reads: {error}; mend it, or move it away") from None
    settings = {renames.recipe_setting(key): value for key, value in card.settings.items()}
    card = msgspec.structs.replace(card, name=renames.model(card.name), settings=settings)
    names.check(card.name, f"the card {path} calls its model")
    names.check(card.weights, f"the card {path} calls its weights")
    return card


def write_card(path: Path, card: Card) -> None:
    """Writes the card in one step. Raises UserError when the place cannot be written."""
    fields = {key: value for key, value in msgspec.to_builtins(card).items() if value is not None}
    replace(path, "".join(_lines(fields)).encode())


def verified(path: Path, card: Card) -> Path:
    """The weights that lie beside the card at `path`. Raises UserError when they are not those it was written for."""
    weights = path.parent / card.weights
    if not weights.is_file():
        made = f", or make the model: {card.command}" if card.command else ""
        raise UserError(f"the card {path} is for {card.weights}, which is not in its folder; put it there{made}")
    found = sha256(weights)
    if found != card.sha256.lower():
        raise UserError(
            f"{weights} has SHA-256 {found[:16]}..., but its card {path.name} was written for {card.sha256[:16]}...; "
            "get the weights again, or move the card away if they are meant to differ"
        )
    return weights


def _lines(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[str]:
    """A TOML table: its values first, for what follows a header belongs to that header."""
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    if above:
        yield f"\n[{'.'.join(map(_key, above))}]\n"
    for key, value in table.items():
        if key not in tables and value is not None:
            yield f"{_key(key)} = {_value(value)}\n"
    for key, value in tables.items():
        yield from _lines(value, (*above, key))


def _key(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _value(text)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which only TOML forbids.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"a card cannot hold {type(value).__name__}: {value!r}")
