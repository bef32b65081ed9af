"""Loads a classifier from a checkpoint file or by the name of a bundled model, and saves one."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ... import renames
from ...errors import UserError, unknown
from .. import durable
from ..architectures.factories import Factory, named_factory
from ..architectures.normalise import canonical, normalised
from ..batches import answering
from ..classifier import Classifier
from ..names import as_file_name
from ..noise import random_images
from .assembly import Built, Declared, assemble
from .cards import Card, read_card, verified
from .contents import Contents, read
from .nested import by, shown
from .own_normalisation import mentioned
from .probe import probe, refuse_not_finite, wrong_images
from .shards import INDEX
from .zoo import is_bundled, zoo_card, zoo_names, zoo_weights

__all__ = ["Card", "Loaded", "load", "locate", "probe", "save"]

SUFFIXES = (INDEX, ".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pt2", ".tar", ".npz", ".mat", ".pkl")
"""Suffixes of checkpoint files, in the order in which they are suggested."""
STEMS = (".safetensors.index", ".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".bin.index")
"""Suffixes that may remain when the last suffix is removed."""


@dataclass(frozen=True)
class Loaded:
    """A classifier that has been tried on two random images, and notes about how it was read."""

    classifier: Classifier
    notes: tuple[str, ...]
    card: Card | None


def load(
    checkpoint: str | Path,
    *,
    arch: str | None = None,
    normalise: str | None = None,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    trust_pickle: bool = False,
    device: torch.device | str = "cpu",
    weights: str | None = None,
    images: Tensor | None = None,
) -> Loaded:
    """The classifier in a checkpoint file, or the bundled model of this name.

    `arch` (a registered name, `module:factory` or `file.py:factory`, with or without arguments) and `normalise`
    (`none`, a data set's name or MEAN/STD) take precedence over the card, the file's metadata and a normalisation
    stored beside the weights. If nothing names the architecture, it is recognised from the weights. `shape` (channels,
    height, width) and `classes` are those of the data, if known, and `images` a few of its images. `weights` names one
    of several sets of weights. Code in the file runs only with `trust_pickle`. Raises UserError with one sentence.
    """
    path, card = locate(checkpoint)
    factory = Factory.parse(arch) if arch is not None and named_factory(arch) else None
    contents = read(path, trust_pickle=trust_pickle, device=torch.device(device), script=factory)
    declared = _from_card(card) if card else _from_metadata(path, contents.metadata)
    built = assemble(path, contents, declared, arch=factory or arch, shape=shape, classes=classes, weights=weights)
    guessed = shape is None and declared.shape is None
    shape = shape or declared.shape or built.shape
    if shape is None:
        raise UserError(f"{path} does not say which images it reads; name a data set with --data")
    if built.shape is not None and built.shape[0] != shape[0]:
        raise wrong_images(path, built.shape[:1], shape)
    refuse_not_finite(path, built.network)
    chosen, more = _normalisation(path, contents, normalise, declared, built)
    text = canonical(chosen, shape[0])
    whole = normalised(built.network, text, shape[0]).to(device)
    tried = random_images(shape) if images is None or len(images) < 2 else images
    module, returned = _answering(whole, path, tried.to(device), classes)
    outputs, probed = probe(module, path, shape, classes, made_for=built.shape)
    notes = contents.notes + built.notes + returned + probed
    if guessed:
        notes += (f"its images are assumed to be {by(shape)}",)
    notes += more
    name = card.name if card else as_file_name(_stem(path))
    classifier = Classifier(
        module, name=name, architecture=built.architecture, shape=shape, classes=outputs, normalisation=text
    )
    return Loaded(classifier, notes, card)


def _answering(module: nn.Module, path: Path, images: Tensor, classes: int | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The module, wrapped so that it returns logits; unchanged if it raises, which the probe reports."""
    try:
        return answering(module.eval(), images, classes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception:  # whatever the model's own code raises
        return module, ()


def save(
    module: nn.Module,
    path: Path,
    *,
    architecture: str,
    normalisation: str,
    shape: tuple[int, ...],
    classes: int,
    dtype: torch.dtype = torch.float32,
) -> str:
    """Writes the weights, and the metadata needed to read them, to a safetensors file; returns its SHA-256.

    The write is atomic. float16 halves the file, and rounds the weights.
    """
    tensors = {
        # A clone of each: tied weights are written twice, because the format has no shared tensors.
        key: (t.to(dtype) if t.is_floating_point() else t).detach().cpu().contiguous().clone()
        for key, t in module.state_dict().items()
    }
    metadata = {
        "format": "pt",
        "architecture": architecture,
        "normalisation": canonical(normalisation, shape[0]),
        "shape": by(shape),
        "classes": str(classes),
    }
    durable.replace(path, _in_order(safetensors.torch.save(tensors, metadata)))
    return durable.sha256(path)


def is_half(path: Path) -> bool:
    """Whether a file written by `save` holds float16 weights."""
    with safetensors.safe_open(path, framework="pt") as file:
        return any(file.get_slice(key).get_dtype() == "F16" for key in file.keys())  # noqa: SIM118, it is not a mapping


def _in_order(contents: bytes) -> bytes:
    """The file's contents with a sorted header: the library writes metadata in an order that differs between runs."""
    start = 8 + int.from_bytes(contents[:8], "little")
    header = json.dumps(json.loads(contents[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + contents[start:]


def locate(checkpoint: str | Path) -> tuple[Path, Card | None]:
    """The weights that a bundled model's name, a card or a path refers to, checked against the card if there is one.

    Raises UserError if nothing has that name, or the weights are not those of the card.
    """
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
    beside = path.with_suffix(".toml")
    if not beside.is_file():
        return path, None
    card = read_card(beside)
    weights = zoo_weights(beside, card) if is_bundled(beside) else verified(beside, card)
    if path not in (beside, weights):
        raise UserError(f"{path} lies beside a card for {card.weights}; name that file, or move the card {beside} away")
    return weights, card


def _normalisation(
    path: Path, contents: Contents, typed: str | None, declared: Declared, built: Built
) -> tuple[str, tuple[str, ...]]:
    """The normalisation, and the note on it: the user's, else that of the card or metadata, else the stored one.

    Raises UserError if the stored one cannot be used: leaving it out would measure another function.
    """
    own, named = built.normalisation, typed or declared.normalisation
    if own is None:
        if named is not None:
            return named, ()
        unknown_normalisation = "no normalisation is known, so the network gets pixels in [0, 1]; "
        return "none", (unknown_normalisation + (mentioned(contents.nested.numbers) or "--normalise changes that"),)
    if named is not None:
        source = f"--normalise {typed}" if typed else f"{named}, from {declared.source},"
        return named, (
            f"{source} takes precedence over the normalisation in the file ({own.called}: {own.text or own.remark})",
        )
    if not own.text:
        raise UserError(
            f"{path} holds a normalisation that cannot be used: {own.called} are {own.remark}; add it to the network "
            "in a factory (--arch), or leave it out with --normalise none"
        )
    what = "of mean 0 and standard deviation 1, which changes nothing" if own.text == "none" else own.text
    return own.text, (f"normalisation {what}, from {own.called} in the file{own.remark}",)


def _from_card(card: Card) -> Declared:
    return Declared(f"the card of {card.name}", card.architecture, card.normalisation, card.shape, card.classes)


def _from_metadata(path: Path, metadata: Mapping[str, str]) -> Declared:
    try:
        shape = tuple(int(side) for side in metadata["shape"].split("x")) if "shape" in metadata else None
        classes = int(metadata["classes"]) if "classes" in metadata else None
    except ValueError:  # other tools may use these keys for something else
        shape = classes = None
    return Declared(f"{path}", metadata.get("architecture"), metadata.get("normalisation"), shape, classes)


def _stem(path: Path) -> str:
    """The name of a file without its suffixes: `net` for `net.pth.tar`."""
    name = path.stem
    while name.endswith(STEMS) and not name.startswith("."):
        name = name[: name.rindex(".")]
    return name


def _named_like_checkpoints(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(SUFFIXES)]


def _missing(text: str, path: Path) -> UserError:
    if path.suffix in SUFFIXES and path.stem in zoo_names():
        return UserError(f"there is no file {text}; the bundled model is called {path.stem}")
    siblings = _named_like_checkpoints(path.parent) if path.parent.is_dir() else []
    near = [str(path.parent / name) for name in get_close_matches(path.name, siblings, n=3, cutoff=0.5)]
    if not near and (path.suffix or path.parent != Path()):
        bundled = ", ".join(zoo_names()) or "none"
        return UserError(f"there is no file {text}; name a checkpoint that exists, or a bundled model ({bundled})")
    return unknown("model or checkpoint", text, [*zoo_names(), *near])
