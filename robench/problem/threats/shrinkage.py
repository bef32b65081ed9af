"""How a norm pulls a perturbation towards 0 while a linear constraint moves it: one class per geometry.

Lagrange's rule gives the move that makes delta + move smallest under `slope . move = aim`: a multiple of the slope,
less what the norm takes back, cut by the box. `boldness` weighs the norm against the length of the move.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from .linear import Column, Rows, number

ROUNDING = 1e-6  # share of a size that may come from rounding

Follows = Rows | None
"""1 for the coordinates that change with the multiple of the slope, limits aside, and 0 for others; None if all do."""


@dataclass(frozen=True)
class Shrinkage:
    """No pull at all. Subclasses override what their norm does."""

    max_boldness: ClassVar[float] = 1.0  # the highest that makes sense
    narrows: ClassVar[bool] = False  # whether limits become narrower with the boldness

    delta: Rows
    boldness: Column
    width: Column  # the largest change of a coordinate

    @cached_property
    def _taken(self) -> Column:
        return self.boldness * self.width

    def limits(self, low: Rows, high: Rows) -> tuple[Rows, Rows]:
        """The interval of every coordinate's move, given the one that the box leaves to it."""
        return low, high

    def pulled(self, move: Rows) -> tuple[Rows, Follows]:
        """The move after the norm's pull, before it is cut to its limits."""
        return move, None

    def drift(self, move: Rows, low: Rows, high: Rows) -> Rows:
        """The change of a move with the boldness, for one that is pulled and cut to these limits."""
        return torch.zeros_like(move)


@dataclass(frozen=True)
class Clipping(Shrinkage):
    """l_inf: delta + move stays in a smaller cube."""

    narrows: ClassVar[bool] = True

    def limits(self, low: Rows, high: Rows) -> tuple[Rows, Rows]:
        taken = self._taken
        low = torch.maximum(low, taken - self.width - self.delta)
        return low, torch.minimum(high, self.width - taken - self.delta)

    def drift(self, move: Rows, low: Rows, high: Rows) -> Rows:
        cube = self.width - self._taken
        there = self.delta + move
        at_edge = number(torch.ge, there.abs(), cube * (1 - ROUNDING))
        return there.sign().mul_(at_edge).mul_(-self.width)


@dataclass(frozen=True)
class Scaling(Shrinkage):
    """l_2: a share of delta is taken back."""

    @cached_property
    def _back(self) -> Rows:
        return self.boldness * self.delta

    def pulled(self, move: Rows) -> tuple[Rows, Follows]:
        return move - self._back, None

    def drift(self, move: Rows, low: Rows, high: Rows) -> Rows:
        return _inside(move, low, high).mul_(self.delta).neg_()


@dataclass(frozen=True)
class Thresholding(Shrinkage):
    """l_1: every coordinate of delta + move comes nearer to 0 by the same amount, and not past it."""

    max_boldness: ClassVar[float] = 8.0  # ever bolder moves tend to the solution of the linear programme

    def pulled(self, move: Rows) -> tuple[Rows, Follows]:
        there, taken = self.delta + move, self._taken
        back = torch.clamp(there, -taken, taken)
        # Not `delta + pulled != 0`: rounding leaves something of a coordinate that ends at 0.
        return move - back, number(torch.ne, back, there)

    def drift(self, move: Rows, low: Rows, high: Rows) -> Rows:
        there = self.delta + move
        far = number(torch.gt, there.abs(), ROUNDING * self.width)
        return there.sign().mul_(far).mul_(_inside(move, low, high)).mul_(-self.width)


def _inside(move: Rows, low: Rows, high: Rows) -> Rows:
    """1 for coordinates between their limits, and 0 at them."""
    return number(torch.gt, move, low).mul_(number(torch.lt, move, high))
