"""A model's card: its weights, how they were trained, and their claimed and measured robustness.

The card NAME.toml lies beside NAME.safetensors; zoo.py finds the cards of bundled models. Does not import torch.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ... import renames
from ...errors import UserError
from .. import names, toml
from ..durable import replace, sha256

SEEN_BEFORE = "seen_before"  # in `validation`: the model that the training started from may know these images

Share = Annotated[float, Meta(ge=0, le=1)]
Minutes = Annotated[float, Meta(ge=0, lt=1e9)]  # NaN and infinity are refused too


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """Robust accuracies that a publication reports for such a model, under one set of threats."""

    source: str  # the paper and its table
    threats: tuple[str, ...]
    accuracy: dict[str, Share]  # the keys are clean, a threat, union, average


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certified lower bound of the accuracy under one threat, for these weights, on the test part of the data."""

    accuracy: Share
    source: Annotated[str, Meta(pattern=r"\S")]  # the method, and where it is published or computed


class Card(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model card, read from and written to TOML. Unknown keys are ignored, so that newer cards stay readable."""

    name: str  # data set first, with hyphens: digits-adv-linf
    data: str  # digits
    architecture: str  # a registered name, or the file.py:factory that was used
    normalisation: str = "none"  # or MEAN/STD
    shape: tuple[int, ...]  # channels, height, width
    classes: int
    parameters: Annotated[int, Meta(ge=0, lt=2**53)] | None = None  # numbers that training sets
    weights: str  # a file in the card's folder
    sha256: str  # of that file
    protocol: str = ""
    recipe: str = ""
    command: str = ""
    seed: int | None = None
    minutes: Minutes | None = None
    minutes_before: Minutes | None = None  # training time of the models that this training started from
    hardware: str = ""
    commit: str = ""  # of robench, where it was trained from a source checkout
    notes: str = ""
    settings: dict[str, Any] = {}  # msgspec copies defaults
    validation: dict[str, Any] = {}  # on held-out training images, at the end of the training
    claimed: dict[str, Claimed] = {}  # by a name for each source
    certified: dict[str, Certificate] = {}  # by threat
    measured: dict[str, Any] = {}


def training_threats(card: Card) -> tuple[str, ...]:
    """The threats that the model was trained against. Raises UserError if its card holds something else there."""
    threats = card.settings.get("threats", ())
    if not isinstance(threats, list | tuple) or not all(isinstance(threat, str) for threat in threats):
        raise UserError(
            f"the card of {card.name} states {str(threats)[:100]!a} as threats of its training, and no list of texts"
        )
    return tuple(threats)


def images_held_out(card: Card) -> int:
    """How many images the training held out, also from that of a model that it started from; 0 if that is not known."""
    held = card.settings.get("validation", 0)
    if not isinstance(held, int) or isinstance(held, bool) or held < 0:
        return 0
    return held if "start" not in card.settings or card.validation.get(SEEN_BEFORE) is False else 0


def training_images(card: Card) -> str:
    """The hash of all images that the training had, those held out included; empty if it is not known."""
    return str(card.settings.get("data_sha256", ""))


def minutes_in_all(card: Card) -> float | None:
    """The training time in minutes, including that of the models it started from; None if its own is unknown."""
    return None if card.minutes is None else card.minutes + (card.minutes_before or 0)


def read_card(path: Path) -> Card:
    """The card in a TOML file. Raises UserError that names a missing or wrong key, or a name that is a path."""
    try:
        table = toml.read(path)
    except UserError as error:
        raise UserError(f"the card {path} cannot be read: {error}") from None
    try:
        card = toml.converted(table, Card)
    except UserError as error:
        raise UserError(f"the card {path} cannot be read: {error}; correct it, or move it away") from None
    settings = {renames.recipe_setting(key): value for key, value in card.settings.items()}
    card = msgspec.structs.replace(card, name=renames.model(card.name), settings=settings)
    names.check(card.name, f"the card {path} calls its model")
    names.check(card.weights, f"the card {path} calls its weights")
    return card


def write_card(path: Path, card: Card) -> None:
    """Writes the card atomically. Raises UserError if the path cannot be written."""
    fields = {key: value for key, value in msgspec.to_builtins(card).items() if value is not None}
    replace(path, "".join(_lines(fields)).encode())


def verified(path: Path, card: Card) -> Path:
    """The weights beside the card at `path`. Raises UserError if they are not those that the card was written for."""
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
    """The lines of a TOML table: values first, because whatever follows a header belongs to that header."""
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
        # TOML has the escapes of JSON, but also forbids DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"a card cannot hold {type(value).__name__}: {value!r}")
