"""APGD on a training batch, as E-AT and RAMP use it."""

from dataclasses import replace
from typing import NamedTuple

import torch

from ..problem.losses import cross_entropy
from ..problem.shapes import Inputs, Mask
from ..problem.threats import Ball, ThreatModel
from ..search.attack import differentiate
from ..search.attacks.apgd import APGD
from ..search.attacks.apgd_l1 import SparseState
from .adversarial import TrainingStep

L1_SHARE = 0.05  # of the coordinates move at first under l_1, as in the training of Croce and Hein; 0.2 in their attack


class Ascent(NamedTuple):
    """The result of APGD on a batch."""

    x_adv: Inputs  # the points of the highest loss
    standing: Mask  # classified correctly at every queried point, the image itself included


def ascend(step: TrainingStep, threat: ThreatModel, steps: int) -> Ascent:
    """APGD of so many steps from the images themselves, on cross-entropy."""
    batch = step.batch
    assert isinstance(threat, Ball), "see check()"
    attack = APGD(steps=steps, loss="cross-entropy", staged=False)
    state = attack.start_at(threat, torch.zeros_like(batch.x))
    if isinstance(state, SparseState):
        state = replace(state, share=torch.full_like(state.share, L1_SHARE))
    standing = torch.ones_like(batch.y, dtype=torch.bool)
    for _ in range(attack.max_queries(threat)):
        seen = differentiate(step.module, cross_entropy, batch.x + state.delta, batch.y, batch.y)
        standing &= seen.logits.argmax(dim=1) == batch.y
        state = attack.step(threat, batch, state, seen)
    return Ascent(batch.x + state.top, standing)
