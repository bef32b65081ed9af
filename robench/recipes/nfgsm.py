"""N-FGSM, single-step adversarial training, de Jorge et al. 2022, section 4. https://arxiv.org/abs/2202.01181

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train nfgsm --data mnist --threat linf:0.3 --out mnist-nfgsm
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import torch

from ..errors import UserError
from ..problem.losses import cross_entropy
from ..problem.noise import normal
from ..problem.shapes import Inputs
from ..problem.threats import Ball, ThreatModel, dense_steepest, inward
from ..problem.threats.base import LARGEST, SMALLEST
from ..search.attack import differentiate
from ..search.attacks.pgd import PGD
from ..settings import NonNegative, Positive
from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step


@dataclass(frozen=True)
class NoiseFGSM(AdversarialTraining):
    """One step of the gradient from noise of twice the radius, and no projection onto the ball: one attack pass.

    The noise and the missing projection prevent catastrophic overfitting, in which a network resists this step and no
    other. Held-out images are checked by PGD with ten steps, which shows it.

    The paper has l_inf. Under l_2 the step is the radius along the gradient. Under l_1 it is that too, projected onto
    the l_1 ball: a Euclidean step, as Jiang et al. 2023 take, because steps along few coordinates are what overfits
    there. The noise is uniform in the l_inf ball, and on the sphere under l_2 and l_1.

    With several threats each batch has one of them, sampled uniformly as in SAT: not in the paper.
    """

    name: ClassVar[str] = "nfgsm"
    source: ClassVar[str] = "single step from noise, N-FGSM, de Jorge et al. 2022, https://arxiv.org/abs/2202.01181"
    attacked: ClassVar[tuple[str, ...]] = PGD.threats
    own_attack: ClassVar[bool] = True
    several: ClassVar[bool] = False

    noise: NonNegative = 2.0  # in radii: k of the paper; 0 is FGSM
    step_size: Positive = 1.0  # in radii: alpha of the paper

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        # Those of the check on held-out images.
        return (*super().unused(), "inner_steps", "inner_step_size", "l1_steps")

    def check(self, threats: tuple[ThreatModel, ...]) -> None:
        if not threats:
            super().check(threats)
        for threat in threats:
            super().check((threat,))
            assert isinstance(threat, Ball), "checked"
            for name, radii in (("noise", self.noise), ("step_size", self.step_size)):
                if radii and not SMALLEST <= threat.radius * Fraction(radii) <= LARGEST:
                    raise UserError(f"{name}={radii} radii of {threat} is no size of a step; choose one near 1")

    def train_step(self, step: TrainingStep) -> StepResult:
        threat = step.threats[int(step.noise * len(step.threats))]
        return cross_entropy_step(step.module, self.stepped(step, threat), step.batch.y)

    def stepped(self, step: TrainingStep, threat: ThreatModel) -> Inputs:
        """The images after noise and one step, in the box but not in general in the ball."""
        assert isinstance(threat, Ball), "see check()"
        batch = step.batch
        start = torch.zeros_like(batch.x)
        if self.noise:
            larger = replace(threat, radius=threat.radius * Fraction(self.noise))
            start = larger.sample(batch.x, normal(batch.keys, restart=0, like=batch.x))
        seen = differentiate(step.module, cross_entropy, batch.x + start, batch.y, batch.y)
        ascent = inward(seen.grad, start, batch.x)
        direction = dense_steepest(threat, ascent)
        reach = replace(threat, radius=threat.radius * Fraction(self.step_size))
        noisy = batch.x + start
        return noisy + reach.project(reach.r * direction, noisy)
