from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...problem.noise import uniform
from ...problem.shapes import Inputs, Mask, PerExample, per_example
from ...problem.threats import Ball
from ...settings import Count, Positive
from ..attack import Batch, Candidates, LabelAttack, State, where_rows


@dataclass(frozen=True)
class RaySState(State):
    """The best direction and its radius, and the direction that is tried."""

    signs: Inputs  # 1 or -1 at every pixel: the best direction so far
    radius: PerExample  # the smallest along it that is known to fool; infinite before the first find
    trial: Inputs  # the direction that is tried, which is the best one while its radius is searched
    tested: PerExample  # the radius that is queried next, along `trial`
    searching: Mask  # whether the radius of the best direction is searched, or a new direction is tried
    low: PerExample  # the largest radius along the best direction that is known not to fool; 0 before one is
    stride: PerExample  # by which the radius falls next, as long as everything fools
    place: Int[Tensor, "B"]  # the block whose signs are changed in `trial`, counted over all levels
    order: Int[Tensor, "B N"]  # the number of each pixel in the order that blocks divide
    sweep: Int[Tensor, "B"]  # times that all blocks were tried


@dataclass(frozen=True)
class RayS(LabelAttack[Ball, RaySState]):
    """Signs of blocks of pixels are changed in turn; a change stays if the model is fooled at a smaller radius.

    Chen and Gu 2020, https://arxiv.org/abs/2006.12792, algorithm 3. A direction has a sign at each pixel, as the
    nearest adversarial image of a linear model under l_inf has. The blocks are the image, its halves in the order
    of its pixels, then its quarters, down to single pixels. Three things differ:

    * a new direction is queried at `tolerance` below the best radius, so that a change without effect costs one query;
    * the radius of a better direction is searched downwards from the old one, in strides that double until one fails,
      and between the last two then: it is seldom much smaller;
    * after the single pixels, which the paper repeats, all blocks follow once more, of pixels in a random order: where
      no single change is of use, several together may be. A change that would help only beside others is still missed.
    """

    name: ClassVar[str] = "rays"
    source: ClassVar[str] = "RayS, Chen and Gu 2020, https://arxiv.org/abs/2006.12792"
    threats: ClassVar[tuple[str, ...]] = ("linf",)
    minimises: ClassVar[bool] = True
    comes_from_outside: ClassVar[bool] = True

    steps: Count = 10_000  # queries
    tolerance: Positive = 1e-3  # of a radius

    def max_queries(self, threat: Ball) -> int:
        return self.steps

    def start(self, threat: Ball, batch: Batch) -> RaySState:
        ones, none = torch.ones_like(batch.x), torch.zeros_like(batch.keys)
        zero = torch.zeros_like(batch.x.flatten(1)[:, 0])
        return RaySState(
            delta=torch.zeros_like(batch.x),
            signs=ones,
            radius=zero + torch.inf,
            trial=ones,
            tested=zero + 1,
            searching=none > 0,
            low=zero,
            stride=zero,
            place=none - 1,  # the first direction has no block
            order=torch.arange(batch.x[0].numel(), device=none.device).expand(len(none), -1),
            sweep=none,
        )

    def query(self, threat: Ball, batch: Batch, state: RaySState) -> Candidates:
        return _at(batch, state).unsqueeze(1)

    def step(self, threat: Ball, batch: Batch, state: RaySState, labels: Int[Tensor, "L W"]) -> RaySState:
        fools = labels.squeeze(1) != batch.y
        found = per_example(fools, state.signs)
        moved = replace(
            state,
            signs=torch.where(found, state.trial, state.signs),
            radius=torch.where(fools, state.tested, state.radius),
        )
        return self._next(batch, self._searched(state, moved, fools))

    def _searched(self, state: RaySState, moved: RaySState, fools: Mask) -> RaySState:
        """The state of the search for the radius along a direction after an answer."""
        new = fools & ~state.searching
        # Along the first direction that fools nothing is known of the radius, so it is halved.
        first = torch.where(state.radius.isfinite(), 2 * self.tolerance, 1.0)
        stride = torch.where(new, first, 2 * state.stride)
        low = torch.where(new, 0, torch.where(state.searching & ~fools, state.tested, state.low))
        searching = (state.searching | fools) & (moved.radius - low > self.tolerance)
        return replace(moved, searching=searching, stride=stride, low=low)

    def _next(self, batch: Batch, state: RaySState) -> RaySState:
        """The state with the next direction and radius to query."""
        place = torch.where(state.searching, state.place, _following(state.place, batch.x[0].numel()))
        ended = place < state.place
        state = replace(state, place=place)
        if ended.device.type != "cpu" or bool(ended.any()):
            state = where_rows(ended, _again(batch, state), state)
        trial = torch.where(_block(place, state.order).view_as(state.signs), -state.signs, state.signs)
        lower = torch.maximum(state.radius - state.stride, state.radius / 2)
        between = torch.where(state.low > 0, (state.low + state.radius) / 2, lower)
        below = (state.radius - self.tolerance).clamp(min=0, max=1)
        return replace(
            state,
            trial=torch.where(per_example(state.searching, trial), state.signs, trial),
            tested=torch.where(state.searching, between, below),
        )


def _again(batch: Batch, state: RaySState) -> RaySState:
    """The state with the pixels in another order."""
    sweep = state.sweep + 1
    return replace(state, order=uniform(batch.keys, sweep, batch.x[0].numel()).argsort(dim=1), sweep=sweep)


def _at(batch: Batch, state: RaySState) -> Inputs:
    """The image at the tested radius along the trial, in the box."""
    return (batch.x + per_example(state.tested, state.trial) * state.trial).clamp(0, 1)


def _level(place: Int[Tensor, "B"], pixels: int) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"], Int[Tensor, "B"]]:
    """The level of a block, its number on this level, and its length in pixels. Level k has 2**k blocks at most."""
    level = torch.frexp((place + 1).clamp(min=1).double()).exponent.long() - 1
    blocks = 2**level
    return level, place + 1 - blocks, (pixels + blocks - 1) // blocks


def _following(place: Int[Tensor, "B"], pixels: int) -> Int[Tensor, "B"]:
    """The next block that holds a pixel. After the last pixel the whole image follows."""
    level, number, length = _level(place, pixels)
    last = (number + 1) * length >= pixels
    return torch.where(last, torch.where(length == 1, 0, 2 ** (level + 1) - 1), place + 1)


def _block(place: Int[Tensor, "B"], order: Int[Tensor, "B N"]) -> Bool[Tensor, "B N"]:
    """Whether a pixel is in the block."""
    _, number, length = _level(place, order.shape[1])
    first = (number * length)[:, None]
    return (order >= first) & (order < first + length[:, None])
