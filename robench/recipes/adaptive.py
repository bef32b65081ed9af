"""Adversarial training on the threat that hurts, at the cost of one threat per batch.

robench train adaptive --data mnist --threat linf:0.3 --threat l2:2 --threat l1:10 --out mnist-adaptive
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..settings import Share
from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step

KEY = "errors"  # in the training's memory


@dataclass(frozen=True)
class Adaptive(AdversarialTraining):
    """Every batch is attacked under one threat, drawn where the model has failed most of late.

    SAT (Madaan et al. 2021) draws uniformly; E-AT (Croce and Hein 2022, https://arxiv.org/abs/2105.12508) in
    proportion to the share of errors since the first step, between two norms. Here the share is that of late, and no
    threat is forgotten.
    """

    name: ClassVar[str] = "adaptive"
    source: ClassVar[str] = "a threat per batch, where the model fails; after E-AT, https://arxiv.org/abs/2105.12508"

    recent: Share = 0.95  # weight of what was known before about a threat's share of errors
    least: Share = 0.3  # of the draws are uniform

    def train_step(self, step: TrainingStep) -> StepResult:
        errors = step.memory.setdefault(KEY, torch.ones(len(step.threats)))
        chosen = drawn(self.shares(errors), step.noise)
        outcome = cross_entropy_step(step.module, self.images(step, step.threats[chosen]), step.batch.y)
        errors[chosen] = self.recent * errors[chosen] + (1 - self.recent) * (1 - outcome.accuracy)
        return outcome

    def shares(self, errors: Tensor) -> Tensor:
        """How often each threat is to be drawn."""
        even = torch.full_like(errors, 1 / len(errors))
        return self.least * even + (1 - self.least) * errors / errors.sum() if errors.any() else even


def drawn(shares: Tensor, noise: float) -> int:
    """Which of the shares a number in [0, 1) falls into."""
    return min(int((shares.cumsum(0) <= noise).sum()), len(shares) - 1)
