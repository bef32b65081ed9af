"""Stochastic adversarial training, Madaan et al. 2021, section 4. https://proceedings.mlr.press/v139/madaan21a.html

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train sat --data mnist --threat linf:0.3 --threat l2:2 --threat l1:10 --out mnist-sat
"""

from dataclasses import dataclass
from typing import ClassVar

from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step


@dataclass(frozen=True)
class StochasticAdversarialTraining(AdversarialTraining):
    """Every batch is attacked under one threat, sampled uniformly: the cost of one threat for any number of them."""

    name: ClassVar[str] = "sat"
    source: ClassVar[str] = (
        "a random threat per batch, Madaan et al. 2021, https://proceedings.mlr.press/v139/madaan21a.html"
    )

    def train_step(self, step: TrainingStep) -> StepResult:
        threat = step.threats[int(step.noise * len(step.threats))]
        return cross_entropy_step(step.module, self.images(step, threat), step.batch.y)
