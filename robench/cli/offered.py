"""What robench offers, by the kinds that a user can list. Does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .. import renames
from ..catalogue import Entry, catalogue
from ..problem.checkpoints.cards import Card, minutes_in_all, read_card, training_threats
from ..problem.checkpoints.zoo import has_weights, zoo_addresses, zoo_card, zoo_names


@dataclass(frozen=True)
class Kind:
    """A kind of things: the word for one of them, and the facts that a list of them shows."""

    one: str
    columns: tuple[str, ...] = ()
    present: Callable[[str], str] = str  # from a former name to the present one


KINDS = {
    "attacks": Kind("attack", ("threats", "reads"), renames.attack),
    "threats": Kind("threat"),
    "protocols": Kind("protocol", ("data",)),
    "recipes": Kind("recipe"),
    "data": Kind("data set", ("images", "classes")),
    "models": Kind("model", ("data", "architecture", "recipe"), renames.model),
    "architectures": Kind("architecture"),
}


def entries(kind: str) -> tuple[Entry, ...]:
    """All entries of a kind: from the catalogue, or from the cards of the bundled models."""
    return tuple(map(_model, zoo_names())) if kind == "models" else catalogue()[kind]


def named(kind: str, name: str) -> tuple[Entry, ...]:
    """The entries of a kind that have this name, or had it before."""
    present = KINDS[kind].present(name)
    if kind == "models":  # the weights of the others need not be read
        return (_model(present),) if present in zoo_names() else ()
    return tuple(entry for entry in entries(kind) if present == entry.name or present in entry.also)


def protocol_file(name: str) -> Path:
    """The file of a bundled protocol."""
    return Path(__file__).parents[1] / "protocols" / f"{name}.toml"


def _model(name: str) -> Entry:
    card = read_card(zoo_card(name))
    threats = training_threats(card)
    facts = {
        "data": card.data,
        "architecture": card.architecture,
        "recipe": card.recipe,
        "threats": ", ".join(threats) or "none",
        "settings": ", ".join(f"{key}={value}" for key, value in card.settings.items() if key != "threats"),
        "normalisation": card.normalisation,
        "images": "x".join(map(str, card.shape)),
        "classes": str(card.classes),
        "minutes of training": "" if (minutes := minutes_in_all(card)) is None else f"{minutes:.1f}",
        "SHA-256": card.sha256,
        "made by": card.command,
    }
    against = f"Against {', '.join(threats)}." if threats else ""
    summary = " ".join(filter(None, (against, _measured(card), _weights(name, card))))
    return Entry(name, summary, {key: text for key, text in facts.items() if text}, example=f"robench evaluate {name}")


def _weights(name: str, card: Card) -> str:
    """Whether the weights are here, or how to get them."""
    if has_weights(zoo_card(name), card):
        return "Its weights are here."
    servers = [urlsplit(url).hostname or url for url in zoo_addresses(card)]
    fetched = f"fetched from {' or '.join(servers)}, or " if servers else ""
    return f"Its weights are to be {fetched}trained."


def _measured(card: Card) -> str:
    """The measured accuracies of its card."""
    found = card.measured
    if not found:
        return ""
    masked = found.get("masked", ())
    shares = ", ".join(
        f"{key} {100 * value:.1f}{'†' * (key in masked)}" for key, value in found.items() if isinstance(value, float)
    )
    doubtful = " († gradients are masked, or may be)" if masked else ""
    check = " with a masking check" if found.get("masking_check") else ""
    return f"Of {found['examples']} under {found['protocol']}{check}, percent: {shares}{doubtful}."
