"""Compares candidates for what a file leaves open, by their answers to the same clean images."""

from dataclasses import dataclass
from functools import cached_property
from math import comb

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from .. import datasets
from ..cautions import commonest
from ..datasets import DATASETS
from ..shapes import Labels, Logits
from ..split import Split, shuffled_rows

IMAGES = 2000  # clean images at most
SIGNIFICANT = 1e-4  # the level of the exact test that one candidate is correct more often than another
SUPPORTED = 1e-2  # the level that suffices if the likelihoods differ as well
DEVIATIONS = 5  # by so many standard errors
WEAK = 0.05  # the level of a test that raises doubts
MIN_ACCURACY = 0.5  # a candidate that is wrong more often is not clearly the network
TEMPERATURES = torch.linspace(-2.5, 2.5, 21).exp()
EQUAL = 1e-4  # relative: logits that differ less are those of the same function


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of one candidate."""

    correct: Tensor  # (N,), bool
    loss: Tensor  # (N,), minus log-likelihood of the label, at the temperature that is best on these images

    @classmethod
    def of(cls, logits: Logits, y: Labels) -> "Answers":
        """The answers that these logits are; NaN is never correct."""
        finite = logits.isfinite().all(dim=1)
        values = torch.where(finite[:, None], logits, torch.zeros(())).double()
        correct = (values.argmax(dim=1) == y) & finite
        scale = 1 / values.std().clamp_min(1e-12)
        losses = torch.stack([F.cross_entropy(values * scale * t, y, reduction="none") for t in TEMPERATURES])
        return cls(correct, losses[losses.mean(dim=1).argmin()])

    @cached_property
    def accuracy(self) -> float:
        """The share of correct answers."""
        return int(self.correct.sum()) / len(self.correct)

    @property
    def rank(self) -> tuple[float, float]:
        """The sort key, lower for better candidates."""
        return -self.accuracy, self.loss.mean().item()

    def clearly_better(self, other: "Answers") -> bool:
        """Whether this candidate is better than the other one beyond doubt.

        It is correct significantly more often (exact one-sided test of McNemar), or it is so at a weaker level and the
        labels are significantly more likely.
        """
        p = exact_p(int((self.correct & ~other.correct).sum()), int((other.correct & ~self.correct).sum()))
        if p < SIGNIFICANT:
            return True
        difference = other.loss - self.loss
        error = difference.std().item() / len(difference) ** 0.5
        return p < SUPPORTED and difference.mean().item() > DEVIATIONS * error

    def more_correct(self, other: "Answers") -> bool:
        """Whether there is some evidence that this candidate is correct more often."""
        better, worse = int((self.correct & ~other.correct).sum()), int((other.correct & ~self.correct).sum())
        return exact_p(better, worse) < WEAK

    def far_above_guessing(self, y: Labels) -> bool:
        """Whether it is correct on most images, and clearly more often than the most common label is."""
        label, _ = commonest(y)
        plain = y == label
        p = exact_p(int((self.correct & ~plain).sum()), int((plain & ~self.correct).sum()))
        return self.accuracy >= MIN_ACCURACY and p < SIGNIFICANT


def exact_p(better: int, worse: int) -> float:
    """The exact one-sided p-value of McNemar's test, from the numbers of images on which only one is correct."""
    n = better + worse
    ways: int = sum(comb(n, k) for k in range(better, n + 1))
    return ways / (1 << n)


def sample(split: Split) -> Split:
    """The clean images on which candidates are compared: the same for all choices of examples from a data set.

    If a published data set has few test images, those of training follow.
    """
    whole = split.uncut
    images = whole.take(shuffled_rows(len(whole))[:IMAGES])
    name, _, part = whole.name.partition(":")
    data = DATASETS.get(name)
    if len(images) >= IMAGES or part != "test" or data is None or data.shape != whole.shape or not data.here("train"):
        return images
    more = datasets.load(f"{name}:train")
    more = more.take(shuffled_rows(len(more))[: IMAGES - len(images)])
    both = zip((images.x, images.y), (more.x, more.y), strict=True)
    x, y = (torch.cat(parts) for parts in both)
    return Split.whole(whole.name, x, y, whole.classes)


def same_function(one: Logits, other: Logits) -> bool:
    """Whether two functions are the same, by their logits for the same images."""
    scale = max(one.abs().max().item(), other.abs().max().item())
    return bool((one - other).abs().max() <= EQUAL * scale)


def too_few(images: Split) -> bool:
    """Whether no candidate could be clearly better on so few images."""
    return exact_p(len(images), 0) >= SIGNIFICANT


def refusal(path: object, what: str, typed: str) -> UserError:
    """The error for what cannot be inferred."""
    return UserError(f"{path} {what}; {typed}")
