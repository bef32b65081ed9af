"""APGD on a training batch, as in E-AT and RAMP."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from ..problem.losses import cross_entropy
from ..problem.shapes import Inputs, Mask
from ..problem.threats import Ball
from ..search.attack import Batch, differentiate
from ..search.attacks.apgd import APGD
from ..search.attacks.apgd_l1 import SparseState

L1_SHARE = 0.05  # of the coordinates move at first under l_1, as in the training of Croce and Hein; 0.2 in their attack


class Ascent(NamedTuple):
    """The result of APGD on a batch."""

    x_adv: Inputs  # the points of the highest loss
    standing: Mask  # classified correctly at every queried point, the image itself included


def ascend(module: nn.Module, batch: Batch, threat: Ball, steps: int) -> Ascent:
    """APGD of so many steps from the images themselves, on cross-entropy."""
    attack = APGD(steps=steps, loss="cross-entropy", staged=False)
    state = attack.start_at(threat, torch.zeros_like(batch.x))
    if isinstance(state, SparseState):
        state = replace(state, share=torch.full_like(state.share, L1_SHARE))
    standing = torch.ones_like(batch.y, dtype=torch.bool)
    for _ in range(attack.max_queries(threat)):
        seen = differentiate(module, cross_entropy, batch.x + state.delta, batch.y, batch.y)
        standing &= seen.logits.argmax(dim=1) == batch.y
        state = attack.step(threat, batch, state, seen)
    return Ascent(batch.x + state.top, standing)
