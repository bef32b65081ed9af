"""Multi steepest descent, Maini et al. 2020, section 4.3. https://arxiv.org/abs/1909.04068

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train msd --data mnist --threat linf:0.3 --threat l2:2 --threat l1:10 --out mnist-msd
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..problem.losses import cross_entropy
from ..problem.shapes import Inputs, per_example
from ..problem.threats import Ball
from ..search.attack import State, differentiate
from ..search.attacks.pgd import PGD
from ..settings import Count, Positive
from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step, losses


@dataclass(frozen=True)
class MultiSteepestDescent(AdversarialTraining):
    """One perturbation for all norms: each step is the step of the norm that raises the loss most.

    It starts at zero. Every candidate is projected onto its own ball, so the perturbation lies in the ball of the norm
    that was used last. Training uses the one with the highest loss. The authors take 100 such steps on MNIST.
    """

    name: ClassVar[str] = "msd"
    source: ClassVar[str] = "multi steepest descent, Maini et al. 2020, https://arxiv.org/abs/1909.04068"
    attacked: ClassVar[tuple[str, ...]] = PGD.threats
    own_attack: ClassVar[bool] = True

    inner_steps: Count = 20
    inner_step_size: Positive = 0.125  # in radii

    def train_step(self, step: TrainingStep) -> StepResult:
        return cross_entropy_step(step.module, step.batch.x + self.perturbation(step), step.batch.y)

    def perturbation(self, step: TrainingStep) -> Inputs:
        """The deltas with the highest loss of all steps."""
        module, batch = step.module, step.batch
        balls = [threat for threat in step.threats if isinstance(threat, Ball)]
        assert len(balls) == len(step.threats), "see check()"
        delta = best = torch.zeros_like(batch.x)
        highest = losses(module, batch.x, batch.y)
        for _ in range(self.inner_steps):
            seen = differentiate(module, cross_entropy, batch.x + delta, batch.y, batch.y)
            moves = [self.pgd(ball).step(ball, batch, State(delta), seen).delta for ball in balls]
            raised = torch.stack([losses(module, batch.x + move, batch.y) for move in moves])
            high, which = raised.max(dim=0)
            delta = torch.stack(moves)[which, torch.arange(len(which), device=which.device)]
            best = torch.where(per_example(high > highest, delta), delta, best)
            highest = torch.maximum(high, highest)
        return best
