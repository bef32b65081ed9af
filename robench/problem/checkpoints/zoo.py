"""Bundled models: the package contains a card for each, and the weights of the small ones.

The name of a bundled model refers to the weights with the SHA-256 on its card, wherever they are: beside the card, in
a source checkout, in the cache folder, in a folder of the user, or at an address. Nothing is downloaded for cards that
are not bundled. Does not import torch.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from ... import renames
from ...errors import UserError, unknown
from ..cache import cache_folder
from ..durable import sha256
from .cards import Card, verified

PACKAGE = Path(__file__).resolve().parents[2]
FOLDER = "model_zoo"
VARIABLE = "ROBENCH_ZOO"  # a folder with NAME.safetensors, or the address of one

# Base addresses at which the project publishes NAME.safetensors. There is none yet. A release that has one adds it
# here; ROBENCH_ZOO still takes precedence.
PUBLISHED: tuple[str, ...] = ()


def zoo_folder() -> Path | None:
    """The folder of the cards: inside the installed package, or beside it in a source checkout."""
    places = (PACKAGE / FOLDER, PACKAGE.parent / FOLDER)
    return next((place for place in places if place.is_dir()), None)


def zoo_names() -> tuple[str, ...]:
    """The names of the bundled models, sorted."""
    folder = zoo_folder()
    return tuple(sorted(path.stem for path in folder.glob("*.toml"))) if folder else ()


def zoo_card(name: str) -> Path:
    """The path of a bundled model's card. Raises UserError that suggests similar names."""
    folder = zoo_folder()
    if folder is None or name not in zoo_names():
        raise unknown("model", name, zoo_names())
    return folder / f"{name}.toml"


def card_of_run(model: str, checkpoint: str) -> Path | None:
    """The card of the bundled model that a run is about, from the run's model name and the checkpoint it was given.

    None unless the checkpoint is the bundled model's name, or the path of its card or weights: another file may have
    the same name. The path is only compared, since a run file may name any.
    """
    folder, path = zoo_folder(), Path(checkpoint)
    if folder is None or model not in zoo_names():
        return None
    named = checkpoint == model or (path.parent == folder.resolve() and path.stem == model)
    return zoo_card(model) if named else None


def is_bundled(card: Path) -> bool:
    """Whether the card at this path is part of the package."""
    folder = zoo_folder()
    return folder is not None and card.resolve().parent == folder.resolve()


def zoo_weights(path: Path, card: Card) -> Path:
    """The weights of the bundled card at `path`, downloaded into the cache folder if no folder has them.

    Raises UserError, with every way to get them, if they are not found, or if the file beside the card is not the one
    that the card was written for.
    """
    if path.with_name(card.weights).exists():
        return verified(path, card)
    if found := _found(path, card):
        return found
    ways = [f"replace {file}, which is not the file that the card was written for" for file in _files(path, card)]
    ways += [f"set {VARIABLE} to a folder or an http(s) address that has {card.weights}"]
    ways += [f"run robench in a source checkout whose {FOLDER}/ has it"]
    ways += [f"train the model and name the file that this writes: {card.command}"] if card.command else []
    way_out = f"{', '.join(ways[:-1])}, or {ways[-1]}"
    if urls := zoo_addresses(card):
        from ..download import Download, fetch  # imports network libraries, so only when needed

        wanted = Download(card.weights, f"sha256:{card.sha256.lower()}", urls)
        return fetch(wanted, cache_folder() / FOLDER, subject=f"the model {card.name}", way_out=way_out)
    folders = ", ".join(map(str, _folders(path)))
    raise UserError(f"the weights of {card.name} are in none of the folders {folders}; {way_out}")


def has_weights(path: Path, card: Card) -> bool:
    """Whether the weights of the bundled card at `path` are on this machine. Downloads nothing."""
    return _found(path, card) is not None


def zoo_addresses(card: Card) -> tuple[str, ...]:
    """The addresses of the weights of a bundled card, in order: below ROBENCH_ZOO if it is an address, then ours.

    Raises UserError if ROBENCH_ZOO is neither an address nor a folder.
    """
    own = _own()
    return tuple(_below(base, card.weights) for base in ([own] if isinstance(own, str) else []) + [*PUBLISHED])


def _found(path: Path, card: Card) -> Path | None:
    """The first file with the checksum on the card."""
    return next((file for file in _files(path, card) if _digest(file) == card.sha256.lower()), None)


def _files(path: Path, card: Card) -> Iterator[Path]:
    """The files with the name of the weights, whatever their checksum."""
    former = next((f"{old}.safetensors" for old, new in renames.MODELS.items() if new == card.name), card.weights)
    names = dict.fromkeys((card.weights, former))
    return (file for folder in _folders(path) for name in names if os.path.isfile(file := folder / name))


def _digest(file: Path) -> str | None:
    """The SHA-256 of a file; None if it cannot be read, so that other folders are tried."""
    try:
        return sha256(file)
    except OSError:
        return None


def _folders(path: Path) -> Iterator[Path]:
    """The folders that may have the weights of the card at `path`, in order.

    They include a `model_zoo` above the current folder: in a checkout, the weights are there, not in the package.
    """
    yield path.parent
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the current folder was deleted
        pass
    else:
        above = (folder / FOLDER for folder in (here, *here.parents))
        yield from (folder for folder in above if os.path.isdir(folder) and folder != path.parent)
    yield cache_folder() / FOLDER
    own = _own()
    if isinstance(own, Path):
        yield own


def _own() -> Path | str | None:
    """The value of ROBENCH_ZOO: a folder as Path, a base address as text, None if unset. Raises UserError otherwise."""
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    if text.lower().startswith(("http://", "https://")):
        if _is_address(text):
            return text
    elif os.path.isdir(folder := os.path.expanduser(text)):
        return Path(folder)
    raise UserError(
        f"{VARIABLE} is {text!r}, which is neither a folder nor an http(s) address; set it to a folder or address with "
        "the weights of bundled models, or unset it"
    )


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # unmatched brackets, or a port that is not a number
        return False


def _below(base: str, name: str) -> str:
    """The address of a file below a base address; a query string in the base, such as a token, stays at the end."""
    parts = urlsplit(base)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))
