"""The shortest way to a hyperplane for a point that may not leave the box of images."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...problem.shapes import Inputs, PerExample
from ...problem.threats import L1, Ball, Linf, room
from .apgd import level

Rows = Float[Tensor, "B N"]
Column = Float[Tensor, "B 1"]

# Steps of Newton's method. Every step divides (what is still to be gained) * (slope) by 4 or more, so 12 leave
# a part in a million of it wherever the slope at the end is not a tiny part of the slope at the start.
NEWTON = 12
TINY = 1e-30  # keeps 0 / 0 away


def to_hyperplane(threat: Ball, x: Inputs, slope: Inputs, value: PerExample) -> Inputs:
    """The move of least size (l_inf, l_2, l_1) from images x to where `value + slope . move` is 0, inside the box.

    Croce and Hein 2020, section 3.1, https://arxiv.org/abs/1907.02044. Where the box ends before the hyperplane it
    goes as far as that. Coordinates of slope 0 stay.
    """
    flat = slope.flatten(1)
    peak = flat.abs().amax(dim=1, keepdim=True).clamp(min=TINY)  # first, so that squares do not underflow
    direction = -flat.sign() * value.sign()[:, None]
    worth = flat.abs() / peak
    wall = room(direction, x.flatten(1)) * (worth > 0)
    need = value.abs()[:, None] / peak
    if isinstance(threat, Linf):
        move = torch.minimum(_common(worth, wall, need), wall)
    elif isinstance(threat, L1):
        move = _dearest_first(worth, wall, need)
    else:
        most = wall / worth.clamp(min=TINY)
        move = worth * torch.minimum(_common(worth.square(), most, need), most)
    return (direction * move).view_as(slope)


def _common(gain: Rows, most: Rows, need: Column) -> Column:
    """The least t at which the sum of gain * min(t, most) is `need`; beyond all of `most` where there is none.

    The sum rises along a line that bends down, so Newton's method from 0 never passes the root.
    """
    t = torch.zeros_like(need)
    for _ in range(NEWTON):
        missing = need - (gain * torch.minimum(t, most)).sum(dim=1, keepdim=True)
        rate = (gain * (most > t)).sum(dim=1, keepdim=True)
        t = t + missing.clamp(min=0) / rate.clamp(min=TINY)
    return t


def _dearest_first(worth: Rows, wall: Rows, need: Column) -> Rows:
    """Coordinates of the highest worth up to their walls, until the need is met; the last that tie share."""
    last = level(worth, need, worth * wall)
    full, tied = wall * (worth > last), wall * (worth == last)
    left = need - (worth * full).sum(dim=1, keepdim=True)
    share = left / (worth * tied).sum(dim=1, keepdim=True).clamp(min=TINY)
    return full + tied * share.clamp(min=0, max=1)
