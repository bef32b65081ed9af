"""APGD on a training batch, as in E-AT and RAMP."""

from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import nn

from ..problem.losses import cross_entropy
from ..problem.shapes import Inputs, Mask
from ..problem.threats import Ball
from ..search.attack import Batch, differentiate
from ..search.attacks.apgd import APGD
from ..search.attacks.apgd_l1 import SHRINK, SparseState, large_radius_stages, support_size

L1_SHARE = 0.05  # of the coordinates move at first under l_1, as in the training of Croce and Hein; 0.2 in their attack


class Ascent(NamedTuple):
    """The result of APGD on a batch."""

    x_adv: Inputs  # the points of the highest loss
    standing: Mask  # classified correctly at every queried point, the image itself included


def ascend(module: nn.Module, batch: Batch, threat: Ball, steps: int) -> Ascent:
    """APGD of so many steps from the images themselves, on cross-entropy."""
    return _ascend(module, batch, threat, steps, torch.zeros_like(batch.x))


def ascend_in_stages(module: nn.Module, batch: Batch, threat: Ball, steps: int) -> Ascent:
    """APGD in balls of 3, 2 and 1 radii, each from the best point of the last: the large-radius schedule.

    Croce and Hein 2021 have it under l_1, https://arxiv.org/abs/2103.01208. Under l_2 it finds more as well; under
    l_inf it finds less, and this is `ascend`.
    """
    if threat.separable:
        return ascend(module, batch, threat, steps)
    ascent = Ascent(batch.x, torch.ones_like(batch.y, dtype=torch.bool))
    for count, radii in large_radius_stages(steps):
        ball = replace(threat, radius=Fraction(radii) * threat.radius)
        ascent = _ascend(module, batch, ball, count, ball.project(ascent.x_adv - batch.x, batch.x))
    return ascent


def _ascend(module: nn.Module, batch: Batch, threat: Ball, steps: int, start: Inputs) -> Ascent:
    """APGD from this start. Under l_1 a start with changed pixels decides how many move, as in APGD's own stages."""
    attack = APGD(steps=steps, loss="cross-entropy", staged=False)
    state = attack.start_at(threat, start)
    if isinstance(state, SparseState):
        support, size = support_size(start), start[0].numel()
        fresh = support == 0
        share = torch.where(fresh, L1_SHARE, support / (SHRINK * size))
        state = replace(state, share=share, support=torch.where(fresh, size, support))
    standing = torch.ones_like(batch.y, dtype=torch.bool)
    for _ in range(attack.max_queries(threat)):
        seen = differentiate(module, cross_entropy, batch.x + state.delta, batch.y, batch.y)
        standing &= seen.logits.argmax(dim=1) == batch.y
        state = attack.step(threat, batch, state, seen)
    return Ascent(batch.x + state.top, standing)
