"""The situations an attack is put in. In each, the distance of every image to the boundary is known exactly."""

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
    """A linear model, images, and how they are put to the attack."""

    name: str  # heads its column
    question: str  # what it is about, as a clause
    model: Classifier
    truth: Linear  # the same decisions, with known distances
    split: Split
    wrong: tuple[int, ...] = ()  # rows that the model gets wrong before any attack
    slots: int = IMAGES
    like: str = ""  # the case whose images and decisions are the same

    @property
    def correct(self) -> list[int]:
        """The rows that the model gets right."""
        return [row for row in range(len(self.split)) if row not in self.wrong]

    def distances(self, norm: str) -> dict[int, float]:
        """How far each right image lies from the nearest other class, by its row."""
        return dict(_distances(self.truth, self.split, tuple(self.correct), norm))


class Rescaled(nn.Module):
    """The same decisions by other logits."""

    def __init__(self, inner: nn.Module, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.inner, self.scale, self.shift = inner, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return self.scale * logits + self.shift


class ChannelsLast(nn.Module):
    """Thinks in channels last: so do its gradients."""

    def __init__(self, inner: Linear, shape: Sequence[int]) -> None:
        super().__init__()
        order = torch.arange(inner.weight.shape[1]).view(*shape).permute(1, 2, 0).flatten()
        self.weight = nn.Parameter(inner.weight[:, order].detach().clone())
        self.bias = nn.Parameter(inner.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1) @ self.weight.T + self.bias


@lru_cache
def cases() -> tuple[Case, ...]:
    """Every situation; the first is the plain one."""
    four = Linear(4, SHAPE)
    model = classifier(four, 4, SHAPE)
    images = toy(model, IMAGES, edges=False)
    plain = Case("plain", "four classes, grey images away from 0 and 1", model, four, images)
    return (
        plain,
        replace(plain, name="binary", question="every pixel is exactly 0 or 1", split=_binary(model)),
        _rescaled(plain, "logits − 100", "all logits lowered by 100", shift=-100.0),
        _rescaled(plain, "logits × 30", "all logits multiplied by 30", scale=30.0),
        _rescaled(plain, "logits / 30", "all logits divided by 30", scale=1 / 30),
        _of_classes(2),
        _of_classes(3),
        _colour("not square", "three channels of 5 by 7 pixels", channels_last=False),
        _colour(
            "channels last", "the same, laid out with the channels last, as gradients then are", channels_last=True
        ),
        _partly_wrong(plain),
        replace(
            plain,
            name="one by one",
            question="one image at a time: the same ones must fall as in a batch of all",
            split=images.take(range(IMAGES // 3)),
            slots=1,
            like="plain",
        ),
    )


def _rescaled(plain: Case, name: str, question: str, scale: float = 1.0, shift: float = 0.0) -> Case:
    model = classifier(Rescaled(plain.truth, scale, shift), plain.model.classes, plain.model.shape)
    return replace(plain, name=name, question=question, model=model, like=plain.name)


def _of_classes(classes: int) -> Case:
    module = Linear(classes, SHAPE)
    model = classifier(module, classes, SHAPE)
    return Case(f"{classes} classes", f"a model with {classes} classes", model, module, toy(model, IMAGES, edges=False))


def _colour(name: str, question: str, *, channels_last: bool) -> Case:
    module = Linear(4, COLOUR)
    split = toy(classifier(module, 4, COLOUR), IMAGES, edges=False)
    if not channels_last:
        return Case(name, question, classifier(module, 4, COLOUR), module, split)
    model = classifier(ChannelsLast(module, COLOUR), 4, COLOUR)
    return Case(name, question, model, module, replace(split, x=split.x.to(memory_format=torch.channels_last)))


def _partly_wrong(plain: Case) -> Case:
    wrong = tuple(range(0, IMAGES, 3))
    y = plain.split.y.clone()
    y[list(wrong)] = (y[list(wrong)] + 1) % plain.model.classes
    question = "a third of the images is wrong before any attack"
    return replace(
        plain, name="partly wrong", question=question, split=replace(plain.split, y=y), wrong=wrong, like=plain.name
    )


def _binary(model: Classifier) -> Split:
    grey = toy(model, IMAGES, spread=1.0, edges=False)
    x: Inputs = grey.x.round()
    with torch.no_grad():
        return replace(grey, x=x, y=model(x).argmax(dim=1))


@lru_cache
def _distances(truth: Linear, split: Split, rows: tuple[int, ...], norm: str) -> tuple[tuple[int, float], ...]:
    return tuple((row, distance(truth, split.x[row], int(split.y[row]), norm)) for row in rows)
