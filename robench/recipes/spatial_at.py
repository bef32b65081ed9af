"""Adversarial training against rotations and translations, Engstrom et al. 2019. https://arxiv.org/abs/1712.02779

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train spatial_at --data mnist --threat rt:3px,30deg --out mnist-adv-rt
"""

from dataclasses import dataclass
from typing import ClassVar

from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step


@dataclass(frozen=True)
class SpatialAdversarialTraining(AdversarialTraining):
    """Training on the worst of ten random transforms of each image: Adv_RT of Tramèr and Boneh 2019."""

    name: ClassVar[str] = "spatial_at"
    source: ClassVar[str] = "worst of ten random transforms, Engstrom et al. 2019, https://arxiv.org/abs/1712.02779"
    attacked: ClassVar[tuple[str, ...]] = ("rt", "rt-l2")
    own_attack: ClassVar[bool] = True
    several: ClassVar[bool] = False

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        return (*super().unused(), "inner_steps", "inner_step_size", "l1_steps")

    def train_step(self, step: TrainingStep) -> StepResult:
        (threat,) = step.threats
        return cross_entropy_step(step.module, self.images(step, threat), step.batch.y)
