"""Numbers that grow smaller in the course of a search."""

from math import pi

import torch

from ...problem.shapes import PerExample


def fading(part: PerExample, first: float, last: float) -> PerExample:
    """A value that falls from `first` to `last` along half a cosine wave, as `part` goes from 0 to 1."""
    return last + (first - last) * (1 + torch.cos(pi * part)) / 2
