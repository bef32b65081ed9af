"""Adversarial training on the threat with the most errors, at the cost of one threat per batch.

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train adaptive --data mnist --threat linf:0.3 --threat l2:2 --threat l1:10 --out mnist-adaptive
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..settings import Share
from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step

KEY = "errors"  # of the shares of errors in the memory of the training


@dataclass(frozen=True)
class Adaptive(AdversarialTraining):
    """Every batch is attacked under one threat, sampled by the recent shares of errors.

    SAT (Madaan et al. 2021) samples uniformly; E-AT (Croce and Hein 2022, https://arxiv.org/abs/2105.12508) in
    proportion to the share of errors since the first step, between two norms. Here recent errors count, and every
    threat keeps a minimum probability.
    """

    name: ClassVar[str] = "adaptive"
    source: ClassVar[str] = "a threat per batch, where the model fails; after E-AT, https://arxiv.org/abs/2105.12508"

    recent: Share = 0.95  # weight of the past in a threat's share of errors
    least: Share = 0.3  # share of the batches whose threat is sampled uniformly

    def train_step(self, step: TrainingStep) -> StepResult:
        errors = step.memory.setdefault(KEY, torch.ones(len(step.threats)))
        chosen = sampled(self.shares(errors), step.noise)
        outcome = cross_entropy_step(step.module, self.images(step, step.threats[chosen]), step.batch.y)
        accuracy = step.ranks.mean(outcome.accuracy)
        errors[chosen] = self.recent * errors[chosen] + (1 - self.recent) * (1 - accuracy)
        return outcome

    def shares(self, errors: Tensor) -> Tensor:
        """The probability of each threat."""
        even = torch.full_like(errors, 1 / len(errors))
        return self.least * even + (1 - self.least) * errors / errors.sum() if errors.any() else even


def sampled(shares: Tensor, noise: float) -> int:
    """The index of the share that contains a number in [0, 1)."""
    return min(int((shares.cumsum(0) <= noise).sum()), len(shares) - 1)
