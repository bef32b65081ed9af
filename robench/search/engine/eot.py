"""What a model that answers at random says on average: attacks are told the mean of several passes.

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

SURE = 10  # passes that must all fail before a search ends on them: by chance half of the time, once in 1,000


@dataclass(frozen=True)
class AveragedAnswers:
    """Several passes over the same images, of which each lane has as many."""

    answers: Seen | Tensor  # the mean; where the predicted class is read, the one predicted most often
    margin: Float[Tensor, "Q"]  # the mean of theirs, not that of the mean logits
    fooled: Int[Tensor, "Q"]  # passes that were wrong; NaN fools nobody
    passes: int

    def most(self, *, all_of_them: bool = False) -> Tensor:
        """Which images fool more than half of the passes, or all."""
        return self.fooled == self.passes if all_of_them else 2 * self.fooled > self.passes

    def surely(self) -> Tensor:
        """Which images need no further search."""
        return self.most(all_of_them=True) & (self.passes >= SURE)


def averaged(ask: Callable[[], tuple[Tensor, Seen | Tensor]], passes: int, y: Labels) -> AveragedAnswers:
    """Ask so often. `ask` gives the logits, (L, K) or (L, W, K), and what of them the attacks are told."""
    answers, gaps, wrong = _once(*ask(), y)
    for _ in range(passes - 1):
        again, gap, fooled = _once(*ask(), y)
        answers = [held + new for held, new in zip(answers, again, strict=True)]
        gaps, wrong = gaps + gap, wrong + fooled
    mean = [total / passes for total in answers]
    if len(mean) > 1:
        told: Seen | Tensor = Seen(*mean)
    else:
        told = mean[0] if answers[0].is_floating_point() else answers[0].argmax(dim=-1)
    return AveragedAnswers(told, gaps / passes, wrong, passes)


def _once(logits: Tensor, answers: Seen | Tensor, y: Labels) -> tuple[list[Tensor], Tensor, Tensor]:
    """One pass as numbers that can be added up, with the margin and failure of every image."""
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
