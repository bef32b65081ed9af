"""The shortest move to a hyperplane for a point that may not leave the box of images."""

from ...problem.shapes import Inputs, PerExample
from ...problem.threats import Ball, room

TINY = 1e-30  # keeps 0 / 0 away


def to_hyperplane(threat: Ball, x: Inputs, slope: Inputs, value: PerExample) -> Inputs:
    """The move of least size from images x to where `value + slope . move` is 0, inside the box.

    Croce and Hein 2020, section 3.1, https://arxiv.org/abs/1907.02044. Where the hyperplane lies outside the box, the
    move goes as far as the box allows. Coordinates of slope 0 stay.
    """
    flat = slope.flatten(1)
    peak = flat.abs().amax(dim=1, keepdim=True).clamp(min=TINY)  # first, so that squares do not underflow
    direction = -flat.sign() * value.sign()[:, None]
    gain = flat.abs() / peak
    limit = room(direction, x.flatten(1)) * (gain > 0)
    move = threat.cheapest(gain, limit, value.abs()[:, None] / peak)
    return (direction * move).view_as(slope)
