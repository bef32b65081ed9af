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
from ..search.attacks.apgd_l1 import START_SHARE, SparseState, large_radius_stages

L1_SHARE = 0.05  # of the coordinates move at first under l_1, as in the training of Croce and Hein; 0.2 in their attack


class Ascent(NamedTuple):
    """The result of APGD on a batch."""

    x_adv: Inputs  # the points of the highest loss
    standing: Mask  # classified correctly at every queried point, the image itself included


def ascend(module: nn.Module, batch: Batch, threat: Ball, steps: int) -> Ascent:
    """APGD of so many steps from the images themselves, on cross-entropy."""
    return _ascend(module, batch, threat, steps, torch.zeros_like(batch.x), L1_SHARE)


def ascend_in_stages(module: nn.Module, batch: Batch, threat: Ball, steps: int) -> Ascent:
    """APGD in balls of 3, 2 and 1 radii, each from the best point of the last: the large-radius schedule.

    Croce and Hein 2021 have it under l_1, https://arxiv.org/abs/2103.01208. Under l_2 it finds more as well, as the way
    to the boundary is easier to see from beyond it; under l_inf it finds less, and this is `ascend`.
    """
    if threat.separable:
        return ascend(module, batch, threat, steps)
    x_adv = batch.x
    for count, radii in large_radius_stages(steps):
        ball = replace(threat, radius=Fraction(radii) * threat.radius)
        start = ball.project(x_adv - batch.x, batch.x)
        x_adv, standing = _ascend(module, batch, ball, count, start, START_SHARE)
    return Ascent(x_adv, standing)


def _ascend(module: nn.Module, batch: Batch, threat: Ball, steps: int, start: Inputs, l1_share: float) -> Ascent:
    attack = APGD(steps=steps, loss="cross-entropy", staged=False)
    state = attack.start_at(threat, start)
    if isinstance(state, SparseState):
        state = replace(state, share=torch.full_like(state.share, l1_share))
    standing = torch.ones_like(batch.y, dtype=torch.bool)
    for _ in range(attack.max_queries(threat)):
        seen = differentiate(module, cross_entropy, batch.x + state.delta, batch.y, batch.y)
        standing &= seen.logits.argmax(dim=1) == batch.y
        state = attack.step(threat, batch, state, seen)
    return Ascent(batch.x + state.top, standing)
