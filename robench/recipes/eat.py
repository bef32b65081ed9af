"""E-AT, Croce and Hein 2022. https://arxiv.org/abs/2105.12508

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train eat --data mnist --threat linf:0.3 --threat l1:10 --out mnist-eat
"""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..problem.losses import cross_entropy
from ..problem.shapes import Inputs, Mask
from ..problem.threats import Ball, ThreatModel
from ..search.attack import differentiate
from ..search.attacks.apgd import APGD
from ..search.attacks.apgd_l1 import SparseState
from ..settings import Share
from .adaptive import sampled
from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step

HELD, MET = "held", "met"  # in the memory of the training: standing examples of each threat, and all examples
L1_SHARE = 0.05  # of the coordinates move at first under l_1, as in the authors' training; 0.2 in their evaluation


class Ascent(NamedTuple):
    """The result of APGD on a batch."""

    x_adv: Inputs  # the points of the highest loss
    standing: Mask  # classified correctly at every queried point, the image itself included


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

    kept: Share = 1.0  # factor of the counts in every step

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        return (*super().unused(), "inner_step_size")  # APGD adapts its step size

    def train_step(self, step: TrainingStep) -> StepResult:
        held = step.memory.setdefault(HELD, torch.zeros(len(step.threats)))
        met = step.memory.setdefault(MET, torch.zeros(len(step.threats)))
        chosen = sampled(threat_shares(held, met), step.noise)
        x_adv, standing = self.ascend(step, chosen)
        held.mul_(self.kept)
        met.mul_(self.kept)
        held[chosen] += float(standing.sum())
        met[chosen] += len(standing)
        return cross_entropy_step(step.module, x_adv, step.batch.y)

    def ascend(self, step: TrainingStep, chosen: int) -> Ascent:
        """The batch under attack by one of the threats."""
        threat, batch = step.threats[chosen], step.batch
        assert isinstance(threat, Ball), "see check()"
        attack = APGD(steps=self.inner_steps, loss="cross-entropy", staged=False)
        state = attack.start_at(threat, torch.zeros_like(batch.x))
        if isinstance(state, SparseState):
            state = replace(state, share=torch.full_like(state.share, L1_SHARE))
        standing = torch.ones_like(batch.y, dtype=torch.bool)
        for _ in range(attack.max_queries(threat)):
            seen = differentiate(step.module, cross_entropy, batch.x + state.delta, batch.y, batch.y)
            standing &= seen.logits.argmax(dim=1) == batch.y
            state = attack.step(threat, batch, state, seen)
        return Ascent(batch.x + state.top, standing)

    def images(self, step: TrainingStep, threat: ThreatModel) -> Inputs:
        return self.ascend(step, step.threats.index(threat)).x_adv


def threat_shares(held: Tensor, met: Tensor) -> Tensor:
    """The probability of each threat."""
    errors = 1 - held / met
    if (met == 0).any() or not errors.any():
        return torch.full_like(met, 1 / len(met))
    return errors / errors.sum()
