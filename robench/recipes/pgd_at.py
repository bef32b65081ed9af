"""Adversarial training with PGD, Madry et al. 2018. https://arxiv.org/abs/1706.06083

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train pgd_at --data mnist --threat linf:0.3 --out mnist-adv-linf
"""

from dataclasses import dataclass
from typing import ClassVar

from ..search.attacks.pgd import PGD
from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step


@dataclass(frozen=True)
class PGDAdversarialTraining(AdversarialTraining):
    """Training on PGD's adversarial images of each batch."""

    name: ClassVar[str] = "pgd_at"
    source: ClassVar[str] = "PGD adversarial training, Madry et al. 2018, https://arxiv.org/abs/1706.06083"
    attacked: ClassVar[tuple[str, ...]] = PGD.threats
    several: ClassVar[bool] = False

    def train_step(self, step: TrainingStep) -> StepResult:
        (threat,) = step.threats
        return cross_entropy_step(step.module, self.images(step, threat), step.batch.y)
