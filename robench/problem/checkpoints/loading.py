"""Loads a classifier from a checkpoint file or by the name of a bundled model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UserError, counted
from ..architectures import known
from ..architectures.factories import Factory, named_factory
from ..architectures.normalise import canonical, normalised
from ..batches import answering
from ..classifier import Classifier
from ..noise import random_images
from ..split import Split
from .assembly import Built, Declared, assemble
from .cards import Card
from .comparison import too_few
from .contents import Contents
from .inference import Inferred, Trial, inferred_normalisation
from .nested import by
from .origin import opened
from .own_normalisation import mentioned
from .probe import probe, refuse_not_finite, wrong_images


@dataclass(frozen=True)
class Loaded:
    """A classifier that has been tried on two random images, and notes about how it was read."""

    classifier: Classifier
    notes: tuple[str, ...]
    card: Card | None
    inferred: Inferred | None = None  # what clean images showed
    pinned: str = ""  # the name under which a hub or a package has the same model later
    recorded: Mapping[str, str] = field(default_factory=dict)  # where a hub or a package has it from


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
    """The classifier in a checkpoint file, or the bundled or published model of this name.

    `arch` (a registered name, `module:factory` or `file.py:factory`, with or without arguments) and `normalise`
    (`none`, a data set's name or MEAN/STD) take precedence over the card, the file's metadata and a normalisation
    stored beside the weights. If nothing names the architecture, it is recognised from the weights. `shape` (channels,
    height, width) and `classes` are those of the data, if known, and `images` a few of its images. `weights` names one
    of several sets of weights. From `clean` images with their labels follows what nothing names: the strides of a
    chain, which of several architectures with equal keys it is, and the normalisation of a known architecture. Code in
    the file runs only with `trust_pickle`. Raises UserError with one sentence.
    """
    factory = Factory.parse(arch) if arch is not None and named_factory(arch) else None
    origin = opened(checkpoint, trust_pickle=trust_pickle, device=torch.device(device), script=factory)
    path, contents, declared = origin.path, origin.contents, origin.declared
    if origin.described.refused and arch is None and contents.module is None:
        raise UserError(origin.described.refused)
    named = normalise or declared.normalisation
    trial = None if clean is None or too_few(clean) else Trial(clean, named, torch.device(device))
    built = assemble(
        path, contents, declared, arch=factory or arch, shape=shape, classes=classes, weights=weights, trial=trial
    )
    guessed = shape is None and declared.shape is None
    shape = shape or declared.shape or built.shape
    if shape is None:
        raise UserError(f"{path} does not say which images it reads; name a data set with --data")
    reads = built.shape or origin.made_for
    if reads is not None and reads[0] != shape[0]:
        raise wrong_images(path, reads[:1], shape)
    refuse_not_finite(path, built.network)
    inferred = built.inferred
    unnamed = named is None and built.normalisation is None and known(built.architecture)
    unnamed = unnamed and (inferred is None or inferred.normalisation is None)
    if unnamed and trial is not None and built.shape == trial.images.shape == shape:
        found = inferred_normalisation(built.network, trial.images, trial.device)
        inferred = found if inferred is None else inferred.followed_by(found)
    chosen, more = _normalisation(path, contents, normalise, declared, built, inferred)
    text = canonical(chosen, shape[0])
    whole = normalised(built.network, text, shape[0]).to(device)
    tried = random_images(shape) if images is None or len(images) < 2 else images
    module, returned = _answering(whole, path, tried.to(device), classes)
    outputs, probed = probe(module, path, shape, classes, made_for=reads)
    notes = contents.notes + origin.notes(arch, normalise, shape) + built.notes + returned + probed
    if origin.card is not None:
        notes += _compared(origin.card, outputs, shape)
    if guessed:
        notes += (f"its images are assumed to be {by(shape)}",)
    notes += more
    classifier = Classifier(
        module, name=origin.name, architecture=built.architecture, shape=shape, classes=outputs, normalisation=text
    )
    return Loaded(classifier, notes, origin.card, inferred, origin.pinned, origin.recorded)


def _answering(module: nn.Module, path: Path, images: Tensor, classes: int | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The module, wrapped so that it returns logits; unchanged if it raises, which the probe reports."""
    try:
        return answering(module.eval(), images, classes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception:  # whatever the model's own code raises
        return module, ()


def _compared(card: Card, outputs: int, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The note on images that the card does not name. Raises UserError if it states another number of classes."""
    if card.classes != outputs:
        raise UserError(
            f"the card of {card.name} states {card.classes} classes, and the model has"
            f" {counted(outputs, 'output')}; correct the card, or move it away"
        )
    if card.shape != shape:
        return (f"the card of {card.name} states images of {by(card.shape)}, and these are {by(shape)}",)
    return ()


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
