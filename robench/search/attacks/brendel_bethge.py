from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import UserError
from ...problem.losses import TARGETED, UNTARGETED, Loss, misclassified
from ...problem.noise import uniform
from ...problem.shapes import Inputs, Mask, PerExample, per_example
from ...problem.threats import EUCLIDEAN, Ball
from ...problem.threats.linear import number
from ...problem.threats.shrinkage import Shrinkage
from ...settings import Bounds, Count, Positive, Targets
from ..attack import Batch, GradientAttack, Seen, State, where_rows
from ..some_rows import rows_where, some, step_where
from .starts import faded, of_kind

START, SEARCH, WALK = 0, 1, 2  # the phases of a slot
BEYOND = 1.5  # length of a gradient step of the START phase, in ways to the linearised boundary
KINDS = 20  # images of other kinds that the START phase tries once its noise and its steps have failed
PUSH = 0.01  # share of the reachable gain that a step must make at least to cross the boundary

# Constants of the search for the boldest step. The trust region is a choice, so a few per cent of it do not matter. The
# plane must be met exactly: a step that misses it is smaller, so the search would always miss it.
TIMID = -20.0  # the lowest boldness, as a power of 2
HALVINGS = 8  # of the interval of powers: down to about 6 % of the boldness
NEWTON = 12
MISSED = 0.02  # share of the way to the plane that may be missed; the overshoot is larger
ROUNDING = 1e-6  # share of the reachable gain
TINY = 1e-30  # keeps 0 / 0 away

Rows = Float[Tensor, "B N"]
Column = Float[Tensor, "B 1"]


@dataclass(frozen=True)
class BrendelBethgeState(State):
    """The phase of each slot, the line of its search, and the averaged slope."""

    phase: Int[Tensor, "B"]
    queries: Int[Tensor, "B"]  # in this phase
    far: Inputs  # the start, a delta that fools; 0 before the first
    low: PerExample  # the largest share of its size that does not fool
    high: PerExample  # the smallest share that does
    slope: Inputs  # of the margin, averaged over the walk


@dataclass(frozen=True)
class BrendelBethge(GradientAttack[Ball, BrendelBethgeState]):
    """A line search from a misclassified image to the boundary, then steps along the boundary towards the image.

    Brendel et al. 2019, section 3, https://arxiv.org/abs/1907.01003, with a trust region that shrinks on a fixed
    schedule, as in Foolbox. Every step is the solution, up to a few per cent of its length, of

        minimise size of delta + move,  such that  slope . move = aim,  x + delta + move an image,  |move|_2 <= reach

    The start is the first misclassified blend of the image with uniform noise, with ever more noise; if all blends
    fail, steps onto the linearised boundary from the image; if these fail too, coarse noise, flat images and the image
    inverted in blocks, for a model may take all noise for one class. A start far away helps: what hides the gradient at
    an image seldom hides it along the whole boundary. The reach is a share of the current length of delta, so it
    depends neither on the number of pixels nor on the rest of the batch. If the plane is out of reach, the step takes
    the shortest way towards it.
    """

    name: ClassVar[str] = "brendel-bethge"
    source: ClassVar[str] = "Brendel and Bethge's boundary walk, Brendel et al. 2019, https://arxiv.org/abs/1907.01003"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    precise: ClassVar[bool] = True  # it walks along the boundary
    minimises: ClassVar[bool] = True
    comes_from_outside: ClassVar[bool] = True

    steps: Count = 200  # along the boundary
    targets: Targets = 0
    starts: Annotated[int, Bounds(2)] = 20  # queries in search of a start: half noise, half steps onto the boundary
    searches: Count = 10  # bisections of the way from the image to the start
    reach: Positive = 1.0  # of the first step, in lengths of delta (l_2 under every threat); falls geometrically
    last_reach: Positive = 0.001  # of the last
    overshoot: Annotated[float, Bounds(1, below=2)] = (
        1.1  # of the way to the boundary for a point that does not fool; 2 less this for one that does
    )
    momentum: Annotated[float, Bounds(0, below=1)] = 0.8  # weight of the old slope in the new one

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last_reach > self.reach:
            raise UserError(
                f"{self.name} cannot take last_reach={self.last_reach}: it must be at most reach, {self.reach}"
            )

    def max_queries(self, threat: Ball) -> int:
        return self.starts + self.searches + self.steps + 1

    @property
    def objective(self) -> Loss:
        return (TARGETED if self.targets else UNTARGETED)["margin"]

    def start(self, threat: Ball, batch: Batch) -> BrendelBethgeState:
        still, none = torch.zeros_like(batch.x), torch.zeros_like(batch.keys)
        zero = still.flatten(1)[:, 0]
        delta = self._noise(batch, none)
        return BrendelBethgeState(delta, phase=none, queries=none, far=still, low=zero, high=zero + 1, slope=still)

    def step(self, threat: Ball, batch: Batch, state: BrendelBethgeState, seen: Seen) -> BrendelBethgeState:
        fooled, phase = misclassified(seen.logits, batch.y) & (seen.loss > 0), state.phase
        state = replace(state, queries=state.queries + 1)
        for which, move in ((START, self._started), (SEARCH, self._searched), (WALK, self._walked)):
            state = step_where(phase == which, partial(move, threat), state, batch, seen, fooled)
        return state

    # The search for a start

    def _noise(self, batch: Batch, queries: Int[Tensor, "B"]) -> Inputs:
        """The delta towards uniform noise after this many queries; the share of the way grows with them."""
        noise = uniform(batch.keys, 0, batch.x[0].numel()).to(batch.x.dtype).view_as(batch.x)
        share = ((queries + 1) / (self.starts // 2)).clamp(max=1)
        return per_example(share, noise) * (noise - batch.x)

    def _started(
        self, threat: Ball, state: BrendelBethgeState, batch: Batch, seen: Seen, fooled: Mask
    ) -> BrendelBethgeState:
        ahead = BEYOND * threat.to_hyperplane(batch.x + state.delta, seen.grad, seen.loss)
        turn = state.queries - self.starts // 2  # noise before 0, the image at 0, then on from there
        stepped = torch.where(per_example(turn > 0, ahead), _boxed(state.delta + ahead, batch.x), 0.0)
        onward = torch.where(per_example(turn < 0, ahead), self._noise(batch, state.queries), stepped)
        number = state.queries - self.starts
        if batch.x.device.type != "cpu" or bool((number >= 0).any()):
            other = of_kind(batch.x, batch.keys, number.clamp(0, KINDS - 1), KINDS) - batch.x
            onward = torch.where(per_example((number >= 0) & (number < KINDS), ahead), other, onward)
        found = replace(state, phase=torch.full_like(state.phase, SEARCH), queries=0 * state.queries, far=state.delta)
        found = replace(found, delta=self._share_of_start(threat, batch, found, state.high / 2))
        return where_rows(fooled, found, replace(state, delta=onward))

    # The search for the boundary

    def _searched(
        self, threat: Ball, state: BrendelBethgeState, batch: Batch, seen: Seen, fooled: Mask
    ) -> BrendelBethgeState:
        middle = (state.low + state.high) / 2
        state = replace(state, low=torch.where(fooled, state.low, middle), high=torch.where(fooled, middle, state.high))
        over = state.queries == self.searches
        share = torch.where(over, state.high, (state.low + state.high) / 2)
        delta = self._share_of_start(threat, batch, state, share)
        return replace(state, delta=delta, phase=state.phase + over.long(), queries=state.queries.masked_fill(over, 0))

    def _share_of_start(self, threat: Ball, batch: Batch, state: BrendelBethgeState, share: PerExample) -> Inputs:
        size = share * threat.size(state.far)
        return faded(threat, batch.x, state.far[:, None], size[:, None]).squeeze(1) - batch.x

    # The walk along the boundary

    def _walked(
        self, threat: Ball, state: BrendelBethgeState, batch: Batch, seen: Seen, fooled: Mask
    ) -> BrendelBethgeState:
        first = per_example(state.queries == 1, state.slope)
        averaged = self.momentum * state.slope + (1 - self.momentum) * seen.grad
        slope = torch.where(first, seen.grad, averaged)
        part = (state.queries / self.steps).clamp(max=1)
        reach = self.reach * (self.last_reach / self.reach) ** part * EUCLIDEAN.size(state.delta)
        # A point exactly on the boundary has no way to go, and rounding of the logits may keep it there.
        across = torch.maximum(-self.overshoot * seen.loss, PUSH * reach * EUCLIDEAN.size(slope))
        aim = torch.where(fooled, (self.overshoot - 2) * seen.loss, across)
        move = boldest(threat, batch.x, state.delta, slope, aim, reach)
        return replace(state, delta=_boxed(state.delta + move, batch.x), slope=slope)


@dataclass(frozen=True)
class Step:
    """What a move from delta has to do: meet the plane `g . move = need`, inside the box and within `limit`."""

    here: Rows  # delta
    image: Rows
    g: Rows
    need: Column
    exact: Column  # how far a move may miss the plane
    limit: Column
    width: Column  # the largest change of a coordinate after the shortest move
    leap: Column  # of the multiplier of g, where nothing else bounds it


def boldest(threat: Ball, x: Inputs, delta: Inputs, slope: Inputs, aim: PerExample, reach: PerExample) -> Inputs:
    """The move with the smallest delta + move such that `slope . move = aim`, inside the box and within `reach`.

    If there is none, the shortest way to that plane, as far as it is in reach. The solutions for all reaches form a
    family, from the shortest move to ever bolder ones (`_meeting`), and their length rises with the boldness: a
    bisection over the boldness finds the move. The smallest boldness with an effect may be a millionth, hence powers.
    """
    here, image, limit = delta.flatten(1), x.flatten(1), reach[:, None]
    peak = slope.flatten(1).abs().amax(dim=1, keepdim=True).clamp(min=TINY)  # first, so that squares do not underflow
    g, need = slope.flatten(1) / peak, aim[:, None] / peak
    steepness = g.norm(dim=1, keepdim=True).clamp(min=TINY)
    exact = MISSED * need.abs() + ROUNDING * limit * steepness

    within = aim.clamp(-reach * EUCLIDEAN.size(slope), reach * EUCLIDEAN.size(slope))
    shortest = EUCLIDEAN.to_hyperplane(x + delta, slope, -within).flatten(1)
    length = shortest.norm(dim=1, keepdim=True)
    possible = ((need - (g * shortest).sum(dim=1, keepdim=True)).abs() <= exact) & (length <= limit)
    best: Rows = shortest * (limit / length.clamp(min=TINY)).clamp(max=1)

    width = (here + shortest).abs().amax(dim=1, keepdim=True)
    step = Step(here, image, g, need, exact, limit, width, leap=limit / steepness)
    ahead = need / steepness.square()
    possible &= ~ahead.isnan()  # without a slope no multiplier leads anywhere
    if (rows := rows_where(possible.squeeze(1))) is None:
        return torch.where(possible, _bolder(threat, step, best, ahead), best).view_as(x)
    if rows.numel():
        best.index_copy_(0, rows, _bolder(threat, some(step, rows), best[rows], ahead[rows]))
    return best.view_as(x)


def _bolder(threat: Ball, step: Step, best: Rows, ahead: Column) -> Rows:
    """The boldest move in reach; `best` if there is no bolder one."""
    timid, bold = torch.full_like(step.need, TIMID), torch.full_like(step.need, threat.shrinkage.max_power)
    for _ in range(HALVINGS):
        power = (timid + bold) / 2
        move, tried = _meeting(threat, step, 2**power, ahead)
        meets = (step.need - (step.g * move).sum(dim=1, keepdim=True)).abs() <= step.exact
        fits = meets & (move.norm(dim=1, keepdim=True) <= step.limit)
        best, ahead = torch.where(fits, move, best), torch.where(meets, tried, ahead)
        timid, bold = torch.where(fits, power, timid), torch.where(fits, bold, power)
    return best


def _meeting(threat: Ball, step: Step, boldness: Column, ahead: Column) -> tuple[Rows, Column]:
    """The move of this boldness that meets the plane, and its multiplier of g.

    By Lagrange's rule it is that multiple of g after the pull of the norm (`threats.shrinkage`), cut by the box. Its
    gain, g . move, is a rising, piecewise linear function of the multiplier: Newton's method starts from `ahead` and
    stays between multipliers that were too small and too large; if it has no slope or leaves them, it bisects, or leaps
    on while there is no upper bound.
    """
    family = _Family.of(threat, step, boldness)
    rows = rows_where(family.may_meet(step.exact))
    if rows is None:
        found = _solved(family, ahead)
    elif rows.numel():
        found = ahead.index_copy(0, rows, _solved(some(family, rows), ahead[rows]))
    else:
        found = ahead
    return family.move(found), found


@dataclass(frozen=True)
class _Family:
    """The moves of one boldness: one for each multiplier of g."""

    shrinkage: Shrinkage
    g: Rows
    squares: Rows  # of g
    low: Rows  # limits of the move
    high: Rows
    need: Column
    leap: Column

    @classmethod
    def of(cls, threat: Ball, step: Step, boldness: Column) -> "_Family":
        """The moves of this boldness."""
        shrinkage = threat.shrinkage(step.here, boldness, step.width)
        low, high = shrinkage.limits(-step.image - step.here, 1 - step.image - step.here)  # those of the box, or closer
        return cls(shrinkage, step.g, step.g.square(), low, high, step.need, step.leap)

    def may_meet(self, exact: Column) -> Mask:
        """Whether a move may meet the plane up to `exact`: if not, all coordinates at their limits miss it too.

        Sums of floats in a fixed order rise with their terms, as exact ones do: no move that meets the plane is missed.
        """
        ends = self.g * self.high, self.g * torch.minimum(self.low, self.high)
        highest, lowest = (side(*ends).sum(dim=1, keepdim=True) for side in (torch.maximum, torch.minimum))
        return ((self.need - highest <= exact) & (lowest - self.need <= exact)).squeeze(1)

    def move(self, multiplier: Column) -> Rows:
        """The move of this multiplier."""
        return torch.clamp(self.shrinkage.pulled(multiplier * self.g)[0], self.low, self.high)

    def newton(self, ahead: Column, lower: Column, upper: Column) -> tuple[Column, Column, Column]:
        """The multiplier after one step of Newton's method, and its bounds."""
        pulled, follows = self.shrinkage.pulled(ahead * self.g)
        move = torch.clamp(pulled, self.low, self.high)
        moving = number(torch.eq, move, pulled)
        if follows is not None:
            moving.mul_(follows)
        missing = self.need - move.mul_(self.g).sum(dim=1, keepdim=True)
        rate = moving.mul_(self.squares).sum(dim=1, keepdim=True)
        short = missing > 0
        lower, upper = torch.where(short, ahead, lower), torch.where(short, upper, ahead)
        newton = ahead + missing / rate.clamp(min=TINY)
        sound = (newton >= lower) & (newton <= upper) & (rate > 0)  # with equality: it must stay at the solution
        if sound.device.type == "cpu" and sound.all():
            return newton, lower, upper
        middle = (lower + upper) / 2
        farther = ahead + missing.sign() * torch.maximum(2 * ahead.abs(), self.leap)
        return torch.where(sound, newton, torch.where(middle.isfinite(), middle, farther)), lower, upper


def _solved(family: _Family, ahead: Column) -> Column:
    """The multipliers after `NEWTON` steps.

    On a CPU a row is done that a step leaves where it is. Rounding may keep the method between two neighbours: a row
    is also done after an even number of steps if it is where it was two steps ago, for `NEWTON` is even.
    """
    at = ahead, torch.full_like(ahead, -torch.inf), torch.full_like(ahead, torch.inf)
    before, found, rows = at, ahead.clone(), torch.arange(len(ahead), device=ahead.device)
    for step in range(NEWTON):
        before, last, at = (at if step % 2 == 0 else before), at[0], family.newton(*at)
        found.index_copy_(0, rows, at[0])
        changed = at[0] != last
        if step % 2:
            changed &= (at[0] != before[0]) | (at[1] != before[1]) | (at[2] != before[2])
        if (rest := rows_where(changed.squeeze(1))) is not None:
            if not rest.numel():
                break
            if 2 * rest.numel() <= rows.numel():
                family, rows = some(family, rest), rows[rest]
                at, before = ((a[rest], low[rest], up[rest]) for a, low, up in (at, before))
    return found


def _boxed(delta: Inputs, x: Inputs) -> Inputs:
    return (x + delta).clamp(0, 1) - x
