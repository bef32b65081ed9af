"""The cases every attack is tested on. In each, the exact distance of every image to the boundary is known."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..problem.classifier import Classifier
from ..problem.shapes import Inputs
from ..problem.split import Split
from .exact_distances import Linear, classifier, distance, toy

IMAGES = 12
SHAPE, COLOUR = (1, 5, 5), (3, 5, 7)


@dataclass(frozen=True)
class Case:
    """A linear model, images, and the batch size at which the attack runs."""

    name: str  # the header of its column
    about: str  # what sets the case apart, as a clause
    model: Classifier
    linear: Linear  # decides as `model` does, and has known distances
    split: Split
    wrong: tuple[int, ...] = ()  # rows that the model misclassifies before any attack
    slots: int = IMAGES
    same_as: str = ""  # the name of the case that has the same images and decisions

    @property
    def correct(self) -> list[int]:
        """The rows that the model classifies correctly before any attack."""
        return [row for row in range(len(self.split)) if row not in self.wrong]

    def distances(self, norm: str) -> dict[int, float]:
        """The exact distance of each correct image to the nearest other class, by row."""
        return dict(_distances(self.linear, self.split, tuple(self.correct), norm))


class Rescaled(nn.Module):
    """A network whose logits are scaled and shifted: its decisions stay the same."""

    def __init__(self, inner: nn.Module, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.inner, self.scale, self.shift = inner, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return self.scale * logits + self.shift


class ChannelsLast(nn.Module):
    """A linear network that reads the pixels channels last, so its gradients have that memory format."""

    def __init__(self, inner: Linear, shape: Sequence[int]) -> None:
        super().__init__()
        order = torch.arange(inner.weight.shape[1]).view(*shape).permute(1, 2, 0).flatten()
        self.weight = nn.Parameter(inner.weight[:, order].detach().clone())
        self.bias = nn.Parameter(inner.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1) @ self.weight.T + self.bias


def cases(device: torch.device | str = "cpu") -> tuple[Case, ...]:
    """Every case, its model on this device; the first is the plain one."""
    return tuple(replace(case, model=copy.deepcopy(case.model).to(device)) for case in _on_cpu())


@lru_cache
def _on_cpu() -> tuple[Case, ...]:
    four = Linear(4, SHAPE)
    model = classifier(four, 4, SHAPE)
    images = toy(model, IMAGES, edges=False)
    plain = Case("plain", "four classes, grey images away from 0 and 1", model, four, images)
    return (
        plain,
        replace(plain, name="binary", about="every pixel is exactly 0 or 1", split=_binary(model)),
        _rescaled(plain, "logits − 100", "all logits lowered by 100", shift=-100.0),
        _rescaled(plain, "logits × 30", "all logits multiplied by 30", scale=30.0),
        _rescaled(plain, "logits / 30", "all logits divided by 30", scale=1 / 30),
        _of_classes(2),
        _of_classes(3),
        _colour("not square", "three channels of 5 by 7 pixels", channels_last=False),
        _colour("channels last", "the same in memory format channels last, as are the gradients", channels_last=True),
        _partly_wrong(plain),
        replace(
            plain,
            name="one by one",
            about="one image at a time: must break the same images as a batch of all",
            split=images.take(range(IMAGES // 3)),
            slots=1,
            same_as="plain",
        ),
    )


def _rescaled(plain: Case, name: str, about: str, scale: float = 1.0, shift: float = 0.0) -> Case:
    model = classifier(Rescaled(plain.linear, scale, shift), plain.model.classes, plain.model.shape)
    return replace(plain, name=name, about=about, model=model, same_as=plain.name)


def _of_classes(classes: int) -> Case:
    module = Linear(classes, SHAPE)
    model = classifier(module, classes, SHAPE)
    return Case(f"{classes} classes", f"a model with {classes} classes", model, module, toy(model, IMAGES, edges=False))


def _colour(name: str, about: str, *, channels_last: bool) -> Case:
    module = Linear(4, COLOUR)
    split = toy(classifier(module, 4, COLOUR), IMAGES, edges=False)
    if not channels_last:
        return Case(name, about, classifier(module, 4, COLOUR), module, split)
    model = classifier(ChannelsLast(module, COLOUR), 4, COLOUR)
    return Case(name, about, model, module, replace(split, x=split.x.to(memory_format=torch.channels_last)))


def _partly_wrong(plain: Case) -> Case:
    wrong = tuple(range(0, IMAGES, 3))
    y = plain.split.y.clone()
    y[list(wrong)] = (y[list(wrong)] + 1) % plain.model.classes
    about = "a third of the images is misclassified before any attack"
    return replace(
        plain, name="partly wrong", about=about, split=replace(plain.split, y=y), wrong=wrong, same_as=plain.name
    )


def _binary(model: Classifier) -> Split:
    grey = toy(model, IMAGES, spread=1.0, edges=False)
    x: Inputs = grey.x.round()
    with torch.no_grad():
        return replace(grey, x=x, y=model(x).argmax(dim=1))


@lru_cache
def _distances(linear: Linear, split: Split, rows: tuple[int, ...], norm: str) -> tuple[tuple[int, float], ...]:
    return tuple((row, distance(linear, split.x[row], int(split.y[row]), norm)) for row in rows)
