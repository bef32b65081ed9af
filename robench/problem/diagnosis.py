"""Why a model may be no better than guessing: the usual mistakes, each tried out on the clean images."""

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
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std of the pixels, by convention
CONCLUSIVE = 0.2  # the gain in accuracy that makes an explanation likely, with a hundred images or more


def near_guessing(correct: int, n: int, classes: int) -> bool:
    """Whether the accuracy is no better than guessing, up to three standard deviations."""
    rate = 1 / max(classes, 2)
    return bool(correct / n <= rate + 3 * (rate * (1 - rate) / n) ** 0.5)


def likely_cause(classifier: Classifier, split: Split) -> str | None:
    """The likely cause of a low clean accuracy, and what to type to correct it; None if no known mistake fits."""
    sample = split.take(range(min(SAMPLE, len(split))))
    plain = _accuracy(classifier, sample.x, sample.y)
    tried = [(_accuracy(classifier, x, sample.y), cause) for x, cause in _other_inputs(classifier, sample)]
    permuted, cause = _other_labels(classifier, sample)
    best, cause = max([*tried, (permuted, cause)], key=lambda found: found[0])  # of equals the first
    # With a dozen explanations, one fits a few images by accident: the fewer the images, the larger the required gain.
    if best < plain + max(CONCLUSIVE, 2 / len(sample) ** 0.5):
        return None
    return (
        f"{cause} (this changes the accuracy on the first {counted(len(sample), 'image')} from {plain:.0%} to"
        f" {best:.0%})"
    )


def _other_inputs(classifier: Classifier, split: Split) -> Iterator[tuple[Inputs, str]]:
    x = split.x
    own = split.name.partition(":")[0]
    # Of equally good ones the first is named: that of these images, then those of data sets that others train on.
    for name, data in sorted(DATASETS.items(), key=lambda item: (item[0] != own, item[0] == "digits")):
        if len(data.mean) == x.shape[1]:
            mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
            yield (x - mean) / std, f"it seems to expect normalised images: add --normalise {name}"
    if x.shape[1] == 3:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
        yield (x - mean) / std, "it seems to expect images normalised as for ImageNet: add --normalise imagenet"
        yield (
            x.flip(1),
            "it seems to expect colour channels in the order BGR: flip them in a factory (--arch)",
        )
    yield (x - 0.5) / 0.5, "it seems to expect images in [-1, 1]: add --normalise 0.5/0.5"
    yield x * 255, "it seems to expect pixels from 0 to 255: add --normalise 0/0.003921569"
    yield 1 - x, "it seems to expect inverted brightness: add --normalise 1/-1"
    if x.shape[2] == x.shape[3]:
        yield x.transpose(2, 3), "it seems to expect rows and columns swapped: wrap it in a factory (--arch)"


def _other_labels(classifier: Classifier, split: Split) -> tuple[float, str]:
    """The accuracy under the best renumbering of the classes, and what to say about it.

    The order is estimated on one half of the images and tested on the other, because some order fits any predictions.
    """
    answers = _answers(classifier, split.x)
    k = max(classifier.classes, split.classes)
    half = torch.arange(len(split)) % 2  # every other image, for a data set may be sorted
    tables = [_crossed(split.y[half == h], answers[half == h], k) for h in (0, 1)]
    correct = sum(other[linear_sum_assignment(-one)].sum() for one, other in (tables, tables[::-1]))
    whole = tables[0] + tables[1]
    pairs = zip(*linear_sum_assignment(-whole), strict=True)
    names = ", ".join(f"{answer} for {label}" for label, answer in pairs if label != answer and whole[label, answer])
    return float(correct / len(split)), f"its classes seem to be in another order: it predicts {names}"


def _crossed(y: Labels, answers: Labels, k: int) -> NDArray[np.int64]:
    """The confusion matrix: how often each of k labels (rows) got each answer (columns)."""
    return torch.bincount(y * k + answers, minlength=k * k).view(k, k).numpy()


def _accuracy(classifier: Classifier, x: Inputs, y: Labels) -> float:
    return (_answers(classifier, x) == y).float().mean().item()


def _answers(classifier: Classifier, x: Inputs) -> Labels:
    with torch.no_grad():
        rows = torch.split(x, 64)
        return torch.cat([classifier(r.to(classifier.device)).argmax(dim=1).cpu() for r in rows])
