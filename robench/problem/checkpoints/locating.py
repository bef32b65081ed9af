"""Finds the file that the name of a checkpoint refers to. Does not import torch."""

import os
from difflib import get_close_matches
from pathlib import Path

from ... import renames
from ...errors import UserError, unknown
from ..names import shown
from .cards import Card, read_card, verified
from .hubs.names import is_hub_file, package_of, refuse_missing_package
from .zoo import is_bundled, zoo_card, zoo_names, zoo_weights

INDEX = ".index.json"
"""The suffix of an index of sharded weights."""

SUFFIXES = (INDEX, ".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pt2", ".onnx", ".tar", ".npz", ".mat", ".pkl")
"""Suffixes of checkpoint files, in the order in which they are suggested."""


def locate(checkpoint: str | Path) -> tuple[Path, Card | None]:
    """The weights that a bundled model's name, a card or a path refers to, checked against the card if there is one.

    Raises UserError if nothing has that name, or the weights are not those of the card.
    """
    path = existing(checkpoint)
    beside = path.with_suffix(".toml")
    if not beside.is_file():
        return path, None
    card = read_card(beside)
    weights = zoo_weights(beside, card) if is_bundled(beside) else verified(beside, card)
    if path not in (beside, weights):
        raise UserError(f"{path} lies beside a card for {card.weights}; name that file, or move the card {beside} away")
    return weights, card


def existing(checkpoint: str | Path) -> Path:
    """The card of a bundled model, or the file of this name, which may be one of a hub. Raises UserError without one.

    For a model of an installed package there is no file: its name is returned.
    """
    if is_hub_file(str(checkpoint)):
        from .hubs import huggingface  # imports network libraries, so only when needed

        return huggingface.resolve(str(checkpoint)).path
    if package_of(str(checkpoint)):
        refuse_missing_package(str(checkpoint))
        return Path(checkpoint)
    if not str(checkpoint).strip():
        raise UserError("the name of the model is empty; name a file, or a bundled model (robench list models)")
    path = Path(os.path.expanduser(checkpoint))  # unlike pathlib, it leaves an unknown ~user unchanged
    if (name := renames.model(str(checkpoint))) in zoo_names():
        path = zoo_card(name)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise _missing(shown(str(checkpoint)), path) from None
    except OSError as error:  # the name is too long, or the folder is not readable
        raise UserError(f"{shown(str(path))} cannot be read: {error.strerror or error}") from None
    if path.is_dir():
        inside = sorted(_named_like_checkpoints(path), key=lambda name: (not name.endswith(INDEX), name))
        raise UserError(f"{path} is a folder; name a file{f' in it, like {path / inside[0]}' if inside else ''}")
    if not path.is_file():
        raise _missing(str(checkpoint), path)
    return path


def _named_like_checkpoints(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(SUFFIXES)]


def _stem(name: str) -> str:
    """A file's name without any suffix of checkpoints."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def _missing(text: str, path: Path) -> UserError:
    if path.suffix in SUFFIXES and path.stem in zoo_names():
        return UserError(f"there is no file {text}; the bundled model is called {path.stem}")
    siblings = _named_like_checkpoints(path.parent) if path.parent.is_dir() else []
    # Without suffixes, which make all files alike.
    alike = get_close_matches(_stem(path.name), [_stem(name) for name in siblings], n=3)
    near = [str(path.parent / name) for name in siblings if _stem(name) in alike][:3]
    if not near and (path.suffix or path.parent != Path()):
        return UserError(
            f"there is no file {text}; name a checkpoint that exists, or a bundled model (robench list models)"
        )
    return unknown("model or checkpoint", text, [*zoo_names(), *near])
