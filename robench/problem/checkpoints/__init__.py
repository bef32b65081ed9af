"""From a checkpoint file, or the name of a bundled model, to a classifier; and back."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ...errors import UserError, unknown
from .. import durable
from ..architectures.factories import Factory, named_factory
from ..architectures.normalise import canonical, normalised
from ..batches import answering
from ..classifier import Classifier
from ..names import as_file_name
from ..noise import random_images
from .assembly import Built, Said, assemble
from .cards import Card, read_card, verified
from .contents import Contents, read
from .nested import by, shown
from .own_normalisation import mentioned
from .probe import probe, refuse_not_finite, wrong_images
from .shards import INDEX
from .zoo import is_bundled, zoo_card, zoo_names, zoo_weights

__all__ = ["Card", "Loaded", "load", "locate", "probe", "save"]

SUFFIXES = (INDEX, ".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pt2", ".tar", ".npz", ".mat", ".pkl")
"""Ends of the names of checkpoints, the first to be suggested first."""
STEMS = (".safetensors.index", ".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".bin.index")
"""What may be left of such an end when the last suffix is taken off."""


@dataclass(frozen=True)
class Loaded:
    """A classifier that has answered two random images, and what there is to say about how it was read."""

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
    """The classifier in a file, or of a bundled model.

    `arch` (a registered name, `module:factory` or `file.py:factory`, with or without arguments) and `normalise`
    (`none`, a data set's name or MEAN/STD) go before what the card or the file's metadata name, and a normalisation
    that lies beside the weights; without an architecture, it is recognised. `shape` (channels, height, width) and
    `classes` are those of the data, where they are known, and `images` a few of them. `weights` names one of several
    sets of weights. Code in the file runs only with `trust_pickle`. Raises UserError with one sentence.
    """
    path, card = locate(checkpoint)
    factory = Factory.parse(arch) if arch is not None and named_factory(arch) else None
    contents = read(path, trust_pickle=trust_pickle, device=torch.device(device), script=factory)
    said = _from_card(card) if card else _from_metadata(path, contents.metadata)
    built = assemble(path, contents, said, arch=factory or arch, shape=shape, classes=classes, weights=weights)
    guessed = shape is None and said.shape is None
    shape = shape or said.shape or built.shape
    if shape is None:
        raise UserError(f"{path} does not tell which images it reads; name a data set with --data")
    if built.shape is not None and built.shape[0] != shape[0]:
        raise wrong_images(path, built.shape[:1], shape)
    refuse_not_finite(path, built.network)
    chosen, more = _normalisation(path, contents, normalise, said, built)
    text = canonical(chosen, shape[0])
    whole = normalised(built.network, text, shape[0]).to(device)
    tried = random_images(shape) if images is None or len(images) < 2 else images
    module, returned = _answering(whole, path, tried.to(device), classes)
    outputs, probed = probe(module, path, shape, classes, made_for=built.shape)
    notes = contents.notes + built.notes + returned + probed
    if guessed:
        notes += (f"its images are taken to be {by(shape)}",)
    notes += more
    name = card.name if card else as_file_name(_stem(path))
    classifier = Classifier(
        module, name=name, architecture=built.architecture, shape=shape, classes=outputs, normalisation=text
    )
    return Loaded(classifier, notes, card)


def _answering(module: nn.Module, path: Path, images: Tensor, classes: int | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The module with its logits read off what it returns; as it is where it raises, of which the probe tells."""
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
    """Writes weights and what is needed to read them as safetensors, in one step; returns the file's SHA-256.

    float16 halves the file; the weights that are read back are then the rounded ones.
    """
    tensors = {
        # A clone each: tied weights are written twice, for the format knows no sharing.
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
    """Whether weights that `save` has written are float16."""
    with safetensors.safe_open(path, framework="pt") as file:
        return any(file.get_slice(key).get_dtype() == "F16" for key in file.keys())  # noqa: SIM118, it is no mapping


def _in_order(contents: bytes) -> bytes:
    """The same file with its header sorted: the library writes metadata in an order that differs from run to run."""
    start = 8 + int.from_bytes(contents[:8], "little")
    header = json.dumps(json.loads(contents[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + contents[start:]


def locate(checkpoint: str | Path) -> tuple[Path, Card | None]:
    """The weights that a bundled model's name, a card or a path stands for, checked against the card if there is one.

    Raises UserError when there is nothing of that name, or it is not what its card was written for.
    """
    path = Path(os.path.expanduser(checkpoint))  # unlike pathlib, it leaves an unknown ~user as it is
    if str(checkpoint) in zoo_names():
        path = zoo_card(str(checkpoint))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise _missing(shown(str(checkpoint)), path) from None
    except OSError as error:  # too long a name, a folder that may not be read
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
    path: Path, contents: Contents, typed: str | None, said: Said, built: Built
) -> tuple[str, tuple[str, ...]]:
    """What the user types, else the card or the metadata name, else lies beside the weights; and the note on it.

    Raises UserError where what lies there cannot be used: leaving it out would measure another function.
    """
    own, named = built.normalisation, typed or said.normalisation
    if own is None:
        if named is not None:
            return named, ()
        silent = "nothing says how its images were normalised, so it gets pixels in [0, 1]; "
        return "none", (silent + (mentioned(contents.nested.numbers) or "--normalise changes that"),)
    if named is not None:
        who = f"--normalise {typed}" if typed else f"{named}, from {said.source},"
        return named, (f"{who} goes before the normalisation in the file ({own.called}: {own.text or own.remark})",)
    if not own.text:
        raise UserError(
            f"{path} brings a normalisation that cannot be used: {own.called} are {own.remark}; give it to the network "
            "in a factory (--arch), or leave it out with --normalise none"
        )
    what = "of mean 0 and standard deviation 1, which changes nothing" if own.text == "none" else own.text
    return own.text, (f"normalisation {what}, from {own.called} in the file{own.remark}",)


def _from_card(card: Card) -> Said:
    return Said(f"the card of {card.name}", card.architecture, card.normalisation, card.shape, card.classes)


def _from_metadata(path: Path, metadata: Mapping[str, str]) -> Said:
    try:
        shape = tuple(int(side) for side in metadata["shape"].split("x")) if "shape" in metadata else None
        classes = int(metadata["classes"]) if "classes" in metadata else None
    except ValueError:  # other tools may mean something else by these words
        shape = classes = None
    return Said(f"{path}", metadata.get("architecture"), metadata.get("normalisation"), shape, classes)


def _stem(path: Path) -> str:
    """The name of a file without its format: `net` of `net.pth.tar`."""
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
