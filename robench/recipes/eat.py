"""E-AT, Croce and Hein 2022. https://arxiv.org/abs/2105.12508

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
from .adaptive import drawn
from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step

HELD, MET = "held", "met"  # in the training's memory: examples of each threat that stood, and all of them
L1_SHARE = 0.05  # of the coordinates move at first under l_1, as in the authors' training; 0.2 when they evaluate


class Ascent(NamedTuple):
    """What APGD made of a batch."""

    x_adv: Inputs  # where the loss was highest
    stood: Mask  # classified right at every point it looked at, the image itself among them


@dataclass(frozen=True)
class ExtremeAdversarialTraining(AdversarialTraining):
    """Every batch is attacked under one of the extreme norms, drawn in proportion to the share of errors under it.

    Two norms are enough: who stands under l_inf and l_1 stands under the l_p between, up to a smaller radius. The
    share is of all examples since the first step, and draws are even until every threat has been met. Attacks are
    APGD from the image itself, whose highest point is learnt from; an example stood if no point on the way fooled.

    As in the authors' code, but with the optimiser, schedule and smaller radii at first of the other recipes here.
    Shares of an old model mislead a later one: with `--set kept=0.999` a step leaves so much of what was counted.
    """

    name: ClassVar[str] = "eat"
    source: ClassVar[str] = (
        "E-AT, an extreme norm per batch, where it fails; Croce and Hein 2022, https://arxiv.org/abs/2105.12508"
    )
    attacked: ClassVar[tuple[str, ...]] = APGD.threats

    kept: Share = 1.0  # of the counts, by every step

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        return (*super().unused(), "inner_step_size")  # APGD finds its own

    def train_step(self, step: TrainingStep) -> StepResult:
        held = step.memory.setdefault(HELD, torch.zeros(len(step.threats)))
        met = step.memory.setdefault(MET, torch.zeros(len(step.threats)))
        chosen = drawn(likely(held, met), step.noise)
        x_adv, stood = self.ascended(step, chosen)
        held.mul_(self.kept)
        met.mul_(self.kept)
        held[chosen] += float(stood.sum())
        met[chosen] += len(stood)
        return cross_entropy_step(step.module, x_adv, step.batch.y)

    def ascended(self, step: TrainingStep, chosen: int) -> Ascent:
        """The batch under one of the threats."""
        threat, batch = step.threats[chosen], step.batch
        assert isinstance(threat, Ball), "check() has seen it"
        attack = APGD(steps=self.inner_steps, loss="cross-entropy", staged=False)
        state = attack.start_at(threat, torch.zeros_like(batch.x))
        if isinstance(state, SparseState):
            state = replace(state, share=torch.full_like(state.share, L1_SHARE))
        stood = torch.ones_like(batch.y, dtype=torch.bool)
        for _ in range(attack.max_queries(threat)):
            seen = differentiate(step.module, cross_entropy, batch.x + state.delta, batch.y, batch.y)
            stood &= seen.logits.argmax(dim=1) == batch.y
            state = attack.step(threat, batch, state, seen)
        return Ascent(batch.x + state.top, stood)

    def images(self, step: TrainingStep, threat: ThreatModel) -> Inputs:
        return self.ascended(step, step.threats.index(threat)).x_adv


def likely(held: Tensor, met: Tensor) -> Tensor:
    """How often each threat is to be drawn."""
    errors = 1 - held / met
    if (met == 0).any() or not errors.any():
        return torch.full_like(met, 1 / len(met))
    return errors / errors.sum()
