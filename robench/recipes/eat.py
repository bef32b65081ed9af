"""E-AT, Croce and Hein 2022. https://arxiv.org/abs/2105.12508

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train eat --data mnist --threat linf:0.3 --threat l1:10 --out mnist-eat
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..problem.shapes import Inputs
from ..problem.threats import Ball, ThreatModel
from ..search.attacks.apgd import APGD
from ..settings import Share
from .adaptive import sampled
from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step
from .ascent import Ascent, ascend

HELD, MET = "held", "met"  # in the memory of the training: standing examples of each threat, and all examples


@dataclass(frozen=True)
class ExtremeAdversarialTraining(AdversarialTraining):
    """Every batch is attacked under one of the extreme norms, sampled in proportion to its share of errors.

    Two norms suffice: robustness under l_inf and l_1 implies robustness under the l_p norms between, at a smaller
    radius. The shares are over all examples since the first step, and equal until every threat has been used. Attacks
    are APGD from the image itself, and training uses the point of the highest loss. An example is standing if no
    queried point was misclassified.

    As in the authors' code, but with the optimiser, the schedule and the warm-up of the other recipes. Old counts may
    misrepresent the current model: `--set kept=0.999` multiplies all counts by that in every step.
    """

    name: ClassVar[str] = "eat"
    source: ClassVar[str] = (
        "E-AT, an extreme norm per batch, where it fails; Croce and Hein 2022, https://arxiv.org/abs/2105.12508"
    )
    attacked: ClassVar[tuple[str, ...]] = APGD.threats
    own_attack: ClassVar[bool] = True

    kept: Share = 1.0  # factor of the counts in every step

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        return (*super().unused(), "inner_step_size", "l1_steps")  # APGD adapts its step size

    def train_step(self, step: TrainingStep) -> StepResult:
        held = step.memory.setdefault(HELD, torch.zeros(len(step.threats)))
        met = step.memory.setdefault(MET, torch.zeros(len(step.threats)))
        chosen = sampled(threat_shares(held, met), step.noise)
        x_adv, standing = self.ascend(step, chosen)
        held.mul_(self.kept)
        met.mul_(self.kept)
        held[chosen] += float(step.ranks.total(standing.sum()))
        met[chosen] += len(standing) * step.ranks.size
        return cross_entropy_step(step.module, x_adv, step.batch.y)

    def ascend(self, step: TrainingStep, chosen: int) -> Ascent:
        """The batch under attack by one of the threats."""
        threat = step.threats[chosen]
        assert isinstance(threat, Ball), "see check()"
        return ascend(step.module, step.batch, threat, self.inner_steps)

    def images(self, step: TrainingStep, threat: ThreatModel) -> Inputs:
        return self.ascend(step, step.threats.index(threat)).x_adv


def threat_shares(held: Tensor, met: Tensor) -> Tensor:
    """The probability of each threat."""
    errors = 1 - held / met
    if (met == 0).any() or not errors.any():
        return torch.full_like(met, 1 / len(met))
    return errors / errors.sum()
