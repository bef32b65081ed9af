"""Loads a classifier from a checkpoint file or by the name of a bundled model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UserError
from ..architectures import known
from ..architectures.factories import Factory, named_factory
from ..architectures.normalise import canonical, normalised
from ..batches import answering
from ..classifier import Classifier
from ..names import as_file_name
from ..noise import random_images
from ..split import Split
from .assembly import Built, Declared, assemble
from .cards import Card
from .comparison import too_few
from .contents import Contents, read
from .inference import Inferred, Trial, inferred_normalisation
from .locating import locate
from .nested import by
from .own_normalisation import mentioned
from .probe import probe, refuse_not_finite, wrong_images

STEMS = (".safetensors.index", ".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".bin.index")
"""Suffixes that may remain when the last suffix is removed."""


@dataclass(frozen=True)
class Loaded:
    """A classifier that has been tried on two random images, and notes about how it was read."""

    classifier: Classifier
    notes: tuple[str, ...]
    card: Card | None
    inferred: Inferred | None = None  # what clean images showed


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
    clean: Split | None = None,
) -> Loaded:
    """The classifier in a checkpoint file, or the bundled model of this name.

    `arch` (a registered name, `module:factory` or `file.py:factory`, with or without arguments) and `normalise`
    (`none`, a data set's name or MEAN/STD) take precedence over the card, the file's metadata and a normalisation
    stored beside the weights. If nothing names the architecture, it is recognised from the weights. `shape` (channels,
    height, width) and `classes` are those of the data, if known, and `images` a few of its images. `weights` names one
    of several sets of weights. From `clean` images with their labels follows what nothing names: the strides of a
    chain, and the normalisation of a known architecture. Code in the file runs only with `trust_pickle`. Raises
    UserError with one sentence.
    """
    path, card = locate(checkpoint)
    factory = Factory.parse(arch) if arch is not None and named_factory(arch) else None
    contents = read(path, trust_pickle=trust_pickle, device=torch.device(device), script=factory)
    declared = _from_card(card) if card else _from_metadata(path, contents.metadata)
    named = normalise or declared.normalisation
    trial = None if clean is None or too_few(clean) else Trial(clean, named)
    built = assemble(
        path, contents, declared, arch=factory or arch, shape=shape, classes=classes, weights=weights, trial=trial
    )
    guessed = shape is None and declared.shape is None
    shape = shape or declared.shape or built.shape
    if shape is None:
        raise UserError(f"{path} does not say which images it reads; name a data set with --data")
    if built.shape is not None and built.shape[0] != shape[0]:
        raise wrong_images(path, built.shape[:1], shape)
    refuse_not_finite(path, built.network)
    inferred = built.inferred
    unnamed = named is None and built.normalisation is None and known(built.architecture)
    if inferred is None and unnamed and trial is not None and built.shape == trial.images.shape == shape:
        inferred = inferred_normalisation(built.network, trial.images, torch.device(device))
    chosen, more = _normalisation(path, contents, normalise, declared, built, inferred)
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
    return Loaded(classifier, notes, card, inferred)


def _answering(module: nn.Module, path: Path, images: Tensor, classes: int | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The module, wrapped so that it returns logits; unchanged if it raises, which the probe reports."""
    try:
        return answering(module.eval(), images, classes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception:  # whatever the model's own code raises
        return module, ()


def _normalisation(
    path: Path,
    contents: Contents,
    typed: str | None,
    declared: Declared,
    built: Built,
    inferred: Inferred | None,
) -> tuple[str, tuple[str, ...]]:
    """The normalisation, and the note on it: the user's, else that of the card or metadata, else the stored one.

    Raises UserError if the stored one cannot be used: leaving it out would measure another function.
    """
    own, named = built.normalisation, typed or declared.normalisation
    chain = inferred.notes if inferred is not None and inferred.architecture else ()
    if own is None:
        if named is not None:
            return named, chain
        if inferred is not None and inferred.normalisation is not None:
            return inferred.normalisation, inferred.notes
        unknown_normalisation = "no normalisation is known, so the network gets pixels in [0, 1]; "
        remark = mentioned(contents.nested.numbers) or "--normalise changes that"
        return "none", ("; ".join((unknown_normalisation + remark, *(inferred.notes if inferred else ()))),)
    if named is not None:
        source = f"--normalise {typed}" if typed else f"{named}, from {declared.source},"
        return named, (
            *chain,
            f"{source} takes precedence over the normalisation in the file ({own.called}: {own.text or own.remark})",
        )
    if not own.text:
        raise UserError(
            f"{path} holds a normalisation that cannot be used: {own.called} are {own.remark}; add it to the network "
            "in a factory (--arch), or leave it out with --normalise none"
        )
    what = "of mean 0 and standard deviation 1, which changes nothing" if own.text == "none" else own.text
    return own.text, (
        *chain,
        f"normalisation {what}, from {own.called} in the file{own.remark}",
    )


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
