from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...problem.losses import margin
from ...problem.noise import uniform
from ...problem.shapes import Inputs, PerExample, per_example
from ...problem.threats import Ball
from ...settings import Bounds, Count
from ..attack import Batch, Candidates, ScoreAttack, State

CHANGES = (
    10,
    50,
    200,
    500,
    1000,
    2000,
    4000,
    6000,
    8000,
)  # of 10000 steps: each halves the squares' area
TILES = 5  # along the shorter side of the image, in the l_2 and l_1 start
SAME = 1e-3  # radii: a proposal nearer than this to the best point is a repetition
TINY = 1e-30  # keeps 0 / 0 away

Images = Float[Tensor, "B C H W"]
Patterns = Float[Tensor, "2 T S S"]  # T patterns and their transposes, padded to side S


@dataclass(frozen=True)
class SquareState(State):
    """The next point to query, and the best so far."""

    best: Inputs
    margin: PerExample  # at the best point; -inf before the first answer
    taken: Int[Tensor, "B"]  # answers so far


@dataclass(frozen=True)
class Square(ScoreAttack[Ball, SquareState]):
    """Random search over squares that shrink: a change stays if it raises the margin.

    Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049; l_1 from Croce and Hein 2021,
    https://arxiv.org/abs/2103.01208. Every example has its own random squares. As in the paper's algorithm, squares
    reach the last row and column; as in the authors' first code, no square repeats what is there. The code of
    AutoAttack does neither.
    """

    name: ClassVar[str] = "square"
    source: ClassVar[str] = "Square attack, Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    steps: Count = 5000
    p_init: Annotated[float, Bounds(above=0, high=1)] = 0.8  # share of the image that the first squares cover

    def start(self, threat: Ball, batch: Batch) -> SquareState:
        delta = _stripes(threat, batch) if threat.separable else _tiles(threat, batch)
        unseen = torch.full_like(delta.flatten(1)[:, 0], -torch.inf)
        return SquareState(delta, best=delta, margin=unseen, taken=torch.zeros_like(batch.keys))

    def query(self, threat: Ball, batch: Batch, state: SquareState) -> Candidates:
        return (batch.x + state.delta).unsqueeze(1)

    def step(self, threat: Ball, batch: Batch, state: SquareState, logits: Float[Tensor, "L W K"]) -> SquareState:
        value = margin(logits.squeeze(1), batch.y)
        better = value > state.margin  # NaN is no better
        best = torch.where(per_example(better, state.delta), state.delta, state.best)
        paint = self._repaint if threat.separable else self._move_mass
        return SquareState(
            delta=paint(threat, batch, best, state.taken),
            best=best,
            margin=torch.where(better, value, state.margin),
            taken=state.taken + 1,
        )

    def stage(self, taken: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
        """The number of halvings of the squares' area at the proposal of this number, counted from 0."""
        return ((taken * 10000 // self.steps)[:, None] > _changes(taken.device)).sum(dim=1)

    def sides(self, h: int, w: int, smallest: int = 1) -> tuple[int, ...]:
        """The side of the squares in every stage, in pixels; sides of 3 or more are odd if they fit."""
        sides = []
        for halvings in range(len(CHANGES) + 1):
            side = max(round((self.p_init / 2**halvings * h * w) ** 0.5), smallest)
            sides.append(min(side + (smallest > 1 and side % 2 == 0), h, w))
        return tuple(sides)

    def _repaint(self, threat: Ball, batch: Batch, best: Images, taken: Int[Tensor, "B"]) -> Images:
        """The proposal for a separable ball (l_inf): a square of every channel moves by the radius, up or down."""
        _, c, h, w = best.shape
        noise = uniform(batch.keys, taken + 1, 2 + c)
        side = _lengths(self.sides(h, w), best.device)[self.stage(taken)]
        _, _, square = _place(noise[:, :2], side, h, w)
        paint = threat.r * _signs(noise[:, 2:, None, None])
        new = threat.project(torch.where(square, paint, best), batch.x)
        same = (new - best).flatten(1).abs().amax(dim=1) <= SAME * threat.r
        return torch.where(per_example(same, new), threat.project(torch.where(square, -paint, best), batch.x), new)

    def _move_mass(self, threat: Ball, batch: Batch, best: Images, taken: Int[Tensor, "B"]) -> Images:
        """The proposal for l_2 and l_1: the mass of a second square and unused mass form a new pattern in the first."""
        p = threat.p
        _, c, h, w = best.shape
        noise = uniform(batch.keys, taken + 1, 5 + c)
        sides, stage = self.sides(h, w, smallest=3), self.stage(taken)
        side = _lengths(sides, best.device)[stage]
        i, j, first = _place(noise[:, :2], side, h, w)
        _, _, second = _place(noise[:, 2:4], side, h, w)
        pattern = _pattern_values(_patterns(sides, p, best.device), (noise[:, 4] > 0.5).long(), stage, i, j)

        held = best * first
        fresh = first * pattern * _signs(noise[:, 5:, None, None]) + held / _norm(held, p)
        unused = (threat.r**p - _mass(best, p).sum(dim=1, keepdim=True)).clamp(min=0) / c
        mass = unused + _mass(best * (first | second), p)
        length = mass * c if p == 1 else mass.sqrt()  # l_1: c times the available mass, as in the authors' code
        new = torch.where(first, fresh / _norm(fresh, p) * length, best.masked_fill(second, 0))
        return _fitted(threat, new, batch.x)


def _stripes(threat: Ball, batch: Batch) -> Images:
    """A start at which every column of every channel moves by the radius, up or down."""
    _, c, _, w = batch.x.shape
    signs = _signs(uniform(batch.keys, 0, c * w)).view(-1, c, 1, w)
    return threat.project((threat.r * signs).expand_as(batch.x), batch.x)


def _tiles(threat: Ball, batch: Batch) -> Images:
    """A start of tiles, whose patterns have random signs and orientations."""
    _, c, h, w = batch.x.shape
    side = max(min(h, w) // TILES, 1)
    down, across = h // side, w // side
    noise = uniform(batch.keys, 0, (1 + c) * down * across).view(-1, 1 + c, down, across)
    noise = noise.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    upright, turned = _patterns((side,), threat.p, noise.device)[:, 0].repeat(1, down, across)
    tiled = torch.where(noise[:, :1] > 0.5, turned, upright) * _signs(noise[:, 1:])
    top, left = (h - down * side) // 2, (w - across * side) // 2
    tiled = F.pad(tiled, (left, w - across * side - left, top, h - down * side - top))
    return _fitted(threat, tiled, batch.x)


def _fitted(threat: Ball, delta: Images, x: Images) -> Images:
    """The delta in ball and box; under l_2 it is scaled to the whole radius before the box cuts."""
    if threat.p == 1:
        return threat.nearest(delta, x)
    return threat.project(delta * per_example(threat.r / threat.size(delta).clamp(min=TINY), delta), x)


def _place(
    corner: Float[Tensor, "B 2"], side: Int[Tensor, "B"], h: int, w: int
) -> tuple[Int[Tensor, "B H"], Int[Tensor, "B W"], Bool[Tensor, "B 1 H W"]]:
    """The positions of rows and columns in a square, and the mask of its pixels; `corner` is uniform in (0, 1)."""
    along = []
    for u, length in zip(corner.unbind(1), (h, w), strict=True):
        free = length - side
        offset = torch.minimum((u * (free + 1)).long(), free)  # the product may round up
        along.append(torch.arange(length, device=side.device) - offset[:, None])
    i, j = along
    rows, columns = ((k >= 0) & (k < side[:, None]) for k in along)
    return i, j, rows[:, None, :, None] & columns[:, None, None, :]


def _pattern_values(
    patterns: Patterns, turned: Int[Tensor, "B"], kind: Int[Tensor, "B"], i: Int[Tensor, "B H"], j: Int[Tensor, "B W"]
) -> Images:
    """The pattern of every row with its corner at (0, 0); values outside the pattern have no meaning."""
    _, kinds, s, _ = patterns.shape
    base = ((turned * kinds + kind) * s)[:, None] + i.clamp(0, s - 1)
    return patterns.take(base[:, None, :, None] * s + j.clamp(0, s - 1)[:, None, None, :])


def _signs(u: Tensor) -> Tensor:
    return torch.where(u > 0.5, 1.0, -1.0)


def _mass(v: Images, p: int | float) -> Float[Tensor, "B C 1 1"]:
    """The sum of absolute values to the power p in every channel."""
    return (v.abs() if p == 1 else v.square()).sum(dim=(2, 3), keepdim=True)


def _norm(v: Images, p: int | float) -> Float[Tensor, "B C 1 1"]:
    mass = _mass(v, p)
    return (mass if p == 1 else mass.sqrt()).clamp(min=TINY)


# Constants on the device, made once: a step then copies nothing.


@lru_cache
def _changes(device: torch.device) -> Int[Tensor, "S"]:
    return torch.tensor(CHANGES, device=device)


@lru_cache
def _lengths(sides: tuple[int, ...], device: torch.device) -> Int[Tensor, "T"]:
    return torch.tensor(sides, device=device)


@lru_cache
def _patterns(sides: tuple[int, ...], p: int | float, device: torch.device) -> Patterns:
    """Patterns of these sides, of norm 1."""
    widest = max(sides)
    upright = torch.stack([F.pad(_pattern(side, p), (0, widest - side, 0, widest - side)) for side in sides])
    return torch.stack([upright, upright.mT]).to(device)


def _pattern(side: int, p: int | float) -> Float[Tensor, "S S"]:
    """Two halves of opposite sign, each falling off in square rings around its centre.

    The paper's eta: ring m weighs the sum over k >= m of (k + 1)**-2, under l_1 **-4.
    """
    middle = side // 2
    k = torch.arange(middle, -1, -1, dtype=torch.float64)
    weight = ((k + 1) ** (-4 if p == 1 else -2)).cumsum(dim=0).flip(0)
    i = torch.arange(side)
    upper = i < middle
    centre = torch.where(upper, middle // 2, middle + (side - middle) // 2)
    ring = torch.maximum((i - centre).abs()[:, None], (i - middle).abs()[None, :])
    size = weight[ring]
    halves = torch.stack([size * upper[:, None], size * ~upper[:, None]])
    halves = halves / halves.flatten(1).norm(p=p, dim=1).clamp(min=TINY).view(2, 1, 1)  # side 1 has no upper half
    pattern = halves[0] - halves[1]
    unit: Tensor = pattern / pattern.norm(p=p)
    return unit.float()
