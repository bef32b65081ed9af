"""Mean answers of a stochastic model: attacks receive the mean of several passes.

Expectation over transformation, Athalye et al. 2018, https://arxiv.org/abs/1802.00420
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ...problem.losses import margin, misclassified
from ...problem.shapes import Labels
from ..attack import Seen

MIN_CERTAIN = 10  # passes that must all fail to end a search: with failure probability 1/2, that is 1 in 1,000


@dataclass(frozen=True)
class AveragedAnswers:
    """The answers of several passes over the same images, of which each slot has the same number."""

    answers: Seen | Tensor  # the mean; for attacks that read labels, the class predicted most often
    margin: Float[Tensor, "Q"]  # the mean of the margins, not the margin of the mean logits
    fooled: Int[Tensor, "Q"]  # passes with a wrong prediction; NaN logits do not count
    passes: int

    def fools(self, *, every_pass: bool = False) -> Tensor:
        """Which images fool more than half of the passes, or every pass."""
        return self.fooled == self.passes if every_pass else 2 * self.fooled > self.passes

    def certain(self) -> Tensor:
        """Which images need no further search."""
        return self.fools(every_pass=True) & (self.passes >= MIN_CERTAIN)


def averaged(query: Callable[[], tuple[Tensor, Seen | Tensor]], passes: int, y: Labels) -> AveragedAnswers:
    """The mean over several passes. `query` returns logits, (L, K) or (L, W, K), and what the attacks read of them."""
    totals, gaps, fooled = _one_pass(*query(), y)
    for _ in range(passes - 1):
        more, gap, wrong = _one_pass(*query(), y)
        totals = [total + new for total, new in zip(totals, more, strict=True)]
        gaps, fooled = gaps + gap, fooled + wrong
    mean = [total / passes for total in totals]
    if len(mean) > 1:
        answers: Seen | Tensor = Seen(*mean)
    else:
        answers = mean[0] if totals[0].is_floating_point() else totals[0].argmax(dim=-1)
    return AveragedAnswers(answers, gaps / passes, fooled, passes)


def _one_pass(logits: Tensor, answers: Seen | Tensor, y: Labels) -> tuple[list[Tensor], Tensor, Tensor]:
    """One pass as numbers that can be summed, with the margin and the failure of every image."""
    rows = logits.flatten(0, -2)
    labels = y.repeat_interleave(len(rows) // len(y))
    gap = margin(rows, labels)
    if isinstance(answers, Seen):
        numbers = [answers.logits, answers.loss, answers.grad]
    elif answers.is_floating_point():
        numbers = [answers]
    else:
        numbers = [F.one_hot(answers, logits.shape[-1])]  # a vote for the class
    return numbers, gap, misclassified(rows, labels).long()
