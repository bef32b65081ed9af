"""The source of a model, and how to read it: a checkpoint, a bundled model, or an object of the caller's."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..problem import checkpoints, datasets
from ..problem.architectures import factories
from ..problem.checkpoints import Loaded
from ..problem.checkpoints.cards import Card
from ..problem.checkpoints.comparison import sample
from ..problem.checkpoints.probe import probe, wrong_images
from ..problem.classifier import Classifier
from ..problem.datasets.preparation import Preparation
from ..problem.noise import random_images
from ..problem.python_model import name_of, own_module
from ..problem.split import Split
from .environment import pick_device

TRIED = 64  # images on which it is found out what the outputs of a model are

Model: TypeAlias = Callable[[Tensor], Any] | str | Path
"""A function from images in [0, 1] to logits, usually a module; a checkpoint; or the name of a bundled model."""


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint or a bundled model, and how to read it."""

    checkpoint: str
    arch: str | None = None
    normalise: str | None = None
    trust_pickle: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    weights: str | None = None  # the key of one of several sets of weights
    infer: bool = True  # whether clean images decide what the file leaves open

    def card(self) -> Card | None:
        """The model's card, where it has one."""
        return checkpoints.locate(self.checkpoint)[1]

    def load(self, split: Split | None = None) -> Loaded:
        """The classifier, for the images of this split; without one, for those that the checkpoint names."""
        return checkpoints.load(
            self.checkpoint,
            arch=self.arch,
            normalise=self.normalise,
            shape=None if split is None else split.shape,
            classes=None if split is None else split.classes,
            trust_pickle=self.trust_pickle,
            device=self.device,
            weights=self.weights,
            images=None if split is None else split.x[:TRIED],
            clean=sample(split) if split is not None and self.infer else None,
        )

    def settled(self, loaded: Loaded) -> "CheckpointSource":
        """The source of what was loaded, with all that was inferred for it, so that loading again infers nothing."""
        found = loaded.inferred
        arch = self.arch or (found.architecture or None if found else None)
        normalise = self.normalise or (found.normalisation if found else None)
        checkpoint = loaded.pinned or self.checkpoint
        return replace(self, checkpoint=checkpoint, arch=arch, normalise=normalise, infer=False)

    def metadata(self, data: str, preparation: Preparation | None = None) -> dict[str, str]:
        """What `robench verify` needs, from any folder, to load the model and the images again."""
        found = {"checkpoint": _absolute(self.checkpoint), "normalise": self.normalise or ""}
        found |= _data_metadata(data, preparation) | {"weights": self.weights or ""}
        if self.arch:
            found["arch"] = factories.placed(self.arch) if factories.named_factory(self.arch) else self.arch
        return {key: value for key, value in found.items() if value}


@dataclass(frozen=True)
class PythonSource:
    """A model that the caller holds in Python. Each `load` copies it, where it can be copied."""

    model: Callable[[Tensor], Any]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def card(self) -> None:
        """A Python object has no card."""

    def load(self, split: Split) -> Loaded:
        """The classifier, for the images of this split."""
        name = name_of(self.model)
        module, notes = self._module(name, split)
        outputs, probed = probe(module, Path(name), split.shape, split.classes)
        classifier = Classifier(module, name=name, architecture=name, shape=split.shape, classes=outputs)
        return Loaded(classifier, (*notes, *probed), None)

    def settled(self, loaded: Loaded) -> "PythonSource":
        """The source itself: nothing is inferred."""
        return self

    def metadata(self, data: str, preparation: Preparation | None = None) -> dict[str, str]:
        """What `robench verify` needs, from any folder, to load the images again; the model has no name."""
        return _data_metadata(data, preparation) if data else {}

    def _module(self, name: str, split: Split) -> tuple[nn.Module, tuple[str, ...]]:
        """The model tried on the first images, or on noise where it raises on one of them."""
        images = split.x[:TRIED] if len(split) > 1 else split.x.repeat(2, 1, 1, 1)
        for tried in (images, random_images(split.shape)):
            try:
                return own_module(self.model, tried, split.classes, self.device)
            except UserError:
                raise
            except Exception as error:  # whatever the model's own code raises
                raised = error
        raise wrong_images(Path(name), None, split.shape, raised) from raised


ModelSource: TypeAlias = CheckpointSource | PythonSource


def source_of(model: Model, device: str = "cpu") -> ModelSource:
    """How to read what a caller of `robench.evaluate` gives. Raises UserError when the device is not available."""
    if isinstance(model, str | Path):
        return CheckpointSource(str(model), device=pick_device(device))
    return PythonSource(model, pick_device(device))


def _data_metadata(data: str, preparation: Preparation | None) -> dict[str, str]:
    known = (preparation or Preparation()).known()
    if "labels" in known:
        known["labels"] = _absolute(known["labels"])
    return {"data": datasets.placed(data), **known}


def _absolute(text: str) -> str:
    """An absolute path; names of bundled models stay as they are."""
    path = Path(os.path.expanduser(text))
    return str(path.resolve()) if path.is_file() else text
