"""Why a model may look no better than chance: the usual mistakes, each tried out on the clean images."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ..errors import counted
from .classifier import Classifier
from .datasets import DATASETS
from .shapes import Inputs, Labels
from .split import Split

SAMPLE = 500  # images to try each explanation on
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what networks trained on it are fed with
TELLING = 0.2  # the gain in accuracy that makes an explanation likely, from a hundred images on


def near_chance(correct: int, n: int, classes: int) -> bool:
    """Whether so many right answers are no more than guessing gives, up to three standard deviations."""
    chance = 1 / max(classes, 2)
    return bool(correct / n <= chance + 3 * (chance * (1 - chance) / n) ** 0.5)


def likely_cause(classifier: Classifier, split: Split) -> str | None:
    """What would explain a low clean accuracy, and what to type about it; None when nothing tried does."""
    sample = split.take(range(min(SAMPLE, len(split))))
    plain = _accuracy(classifier, sample.x, sample.y)
    tried = [(_accuracy(classifier, x, sample.y), cause) for x, cause in _other_inputs(classifier, sample)]
    permuted, cause = _other_labels(classifier, sample)
    best, cause = max([*tried, (permuted, cause)])
    # Of a dozen explanations one always fits a few images: the fewer they are, the more it must gain.
    if best < plain + max(TELLING, 2 / len(sample) ** 0.5):
        return None
    return (
        f"{cause} (with that, {best:.0%} of the first {counted(len(sample), 'image')} are right instead of {plain:.0%})"
    )


def _other_inputs(classifier: Classifier, split: Split) -> Iterator[tuple[Inputs, str]]:
    x = split.x
    for name, data in DATASETS.items():
        if len(data.mean) == x.shape[1]:
            mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
            yield (x - mean) / std, f"it seems to expect normalised images: add --normalise {name}"
    if x.shape[1] == 3:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
        yield (x - mean) / std, "it seems to expect images normalised as for ImageNet: add --normalise imagenet"
        yield (
            x.flip(1),
            "its colour channels seem to be in the order BGR: flip them in a factory (--arch)",
        )
    yield (x - 0.5) / 0.5, "it seems to expect images in [-1, 1]: add --normalise 0.5/0.5"
    yield x * 255, "it seems to expect pixels from 0 to 255: add --normalise 0/0.003921569"
    yield 1 - x, "it seems to expect dark and light exchanged: add --normalise 1/-1"
    if x.shape[2] == x.shape[3]:
        yield x.transpose(2, 3), "it seems to expect rows and columns exchanged: wrap it in a factory (--arch)"


def _other_labels(classifier: Classifier, split: Split) -> tuple[float, str]:
    """The accuracy if its classes were only numbered otherwise.

    The order is guessed from one half of the images and tried on the other: some order fits any answers.
    """
    answers = _answers(classifier, split.x)
    k = max(classifier.classes, split.classes)
    half = torch.arange(len(split)) % 2  # every other image, for a data set may be sorted
    tables = [_crossed(split.y[half == h], answers[half == h], k) for h in (0, 1)]
    right = sum(other[linear_sum_assignment(-one)].sum() for one, other in (tables, tables[::-1]))
    whole = tables[0] + tables[1]
    told = zip(*linear_sum_assignment(-whole), strict=True)
    names = ", ".join(f"{answer} for {label}" for label, answer in told if label != answer and whole[label, answer])
    return float(right / len(split)), f"its classes seem to be in another order: it answers {names}"


def _crossed(y: Labels, answers: Labels, k: int) -> NDArray[np.int64]:
    """How often each of k labels, by row, got each answer, by column."""
    return torch.bincount(y * k + answers, minlength=k * k).view(k, k).numpy()


def _accuracy(classifier: Classifier, x: Inputs, y: Labels) -> float:
    return (_answers(classifier, x) == y).float().mean().item()


def _answers(classifier: Classifier, x: Inputs) -> Labels:
    with torch.no_grad():
        rows = torch.split(x, 64)
        return torch.cat([classifier(r.to(classifier.device)).argmax(dim=1).cpu() for r in rows])
