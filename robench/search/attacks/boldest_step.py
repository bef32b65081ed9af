"""The step of Brendel-Bethge: the smallest perturbation on a plane, inside the box and within reach."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...problem.shapes import Inputs, Mask, PerExample
from ...problem.threats import EUCLIDEAN, Ball
from ...problem.threats.linear import number
from ...problem.threats.shrinkage import Shrinkage
from ..some_rows import rows_where, some

# The trust region is a choice, so a few per cent of it do not matter. The plane must be met exactly: a step that misses
# it is smaller, so the search would always miss it.
TIMID = 2.0**-20  # the lowest boldness
ROUNDS = {"cpu": 16}  # boldnesses that are tried at most; few rows need more than four
ON_OTHERS = 8  # on other devices, which try as many for every row
AIMED = 0.995  # share of the reach that the next boldness aims at
FULL = 0.99  # share of the reach that will do
CLOSE = 1.02  # ratio of a boldness that leads too far and one that does not, at which the second will do
NEWTON = 12
MISSED = 0.02  # share of the way to the plane that may be missed; the overshoot is larger
EXACTLY = 1e-3  # of that, at which Newton's method ends
ROUNDING = 1e-6  # share of the reachable gain
TINY = 1e-30  # keeps 0 / 0 away

Rows = Float[Tensor, "B N"]
Column = Float[Tensor, "B 1"]


@dataclass(frozen=True)
class Step:
    """What a move from delta has to do: meet the plane `g . move = need`, inside the box and within `limit`."""

    here: Rows  # delta
    low: Rows  # limits of the move in the box
    high: Rows
    g: Rows
    need: Column
    exact: Column  # how far a move may miss the plane
    limit: Column
    width: Column  # the largest change of a coordinate after the shortest move
    leap: Column  # of the multiplier of g, where nothing else bounds it


@dataclass(frozen=True)
class Met:
    """A move on the plane, or as near to it as Newton's method came."""

    move: Rows
    along: Rows  # its change with the multiplier of g
    ahead: Column  # the multiplier
    missing: Column
    rate: Column  # the gain's change with the multiplier


@dataclass(frozen=True)
class Search:
    """The search for the boldest move in reach, row by row."""

    best: Rows
    boldness: Column  # to be tried next
    timid: Column  # the highest whose move fits
    bold: Column  # the lowest whose move does not
    ahead: Column  # the multiplier of g to begin with
    done: Mask


def boldest(threat: Ball, x: Inputs, delta: Inputs, slope: Inputs, aim: PerExample, reach: PerExample) -> Inputs:
    """The move with the smallest delta + move such that `slope . move = aim`, inside the box and within `reach`.

    If there is none, the shortest way to that plane, as far as it is in reach. The solutions for all reaches form a
    family, from the shortest move to ever bolder ones, and their length rises with the boldness. By Lagrange's rule
    each is a multiple of g after the pull of the norm (`threats.shrinkage`), cut by the box: a piecewise linear
    function of the multiplier and the boldness. So along the plane the squared length is a parabola in the boldness
    until the next bend: its root is tried next, and bisection bounds what bends do.
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
    step = Step(here, -image - here, 1 - image - here, g, need, exact, limit, width, leap=limit / steepness)
    ahead = need / steepness.square()
    possible &= ~ahead.isnan()  # without a slope no multiplier leads anywhere
    timid = torch.full_like(need, TIMID)
    bold = torch.full_like(need, 2 * threat.shrinkage.max_boldness)
    return _bolder(threat, step, Search(best, timid, timid, bold, ahead, ~possible.squeeze(1))).view_as(x)


def _bolder(threat: Ball, step: Step, search: Search) -> Rows:
    """The boldest moves in reach; `best` where there is no bolder one. On a CPU rows that are done are left out."""
    best, rows = search.best.clone(), torch.arange(len(search.best), device=search.best.device)
    for _ in range(ROUNDS.get(best.device.type, ON_OTHERS)):
        if (left := rows_where(~search.done)) is not None:
            best.index_copy_(0, rows, search.best)
            if not left.numel():
                return best
            step, search, rows = some(step, left), some(search, left), rows[left]
        search = _tried(threat, step, search)
    return best.index_copy_(0, rows, search.best)


def _tried(threat: Ball, step: Step, search: Search) -> Search:
    """The search after it has tried its boldness."""
    boldness, top = search.boldness, threat.shrinkage.max_boldness
    shrinkage = threat.shrinkage(step.here, boldness, step.width)
    low, high = shrinkage.limits(step.low, step.high)
    met = _meeting(shrinkage, step, low, high, search.ahead)
    size = met.move.norm(dim=1, keepdim=True)
    meets = met.missing.abs() <= step.exact
    fits = meets & (size <= step.limit)
    best, timid = torch.where(fits, met.move, search.best), torch.where(fits, boldness, search.timid)
    bold = torch.where(fits, search.bold, boldness)

    rate = met.rate.clamp(min=TINY)
    drift = shrinkage.drift(met.move, low, high)
    turn = -(step.g * drift).sum(dim=1, keepdim=True) / rate  # of the multiplier: the path stays on the plane
    path = torch.addcmul(drift, met.along, turn)
    a, b = path.square().sum(dim=1, keepdim=True), (path * met.move).sum(dim=1, keepdim=True)
    far = (AIMED * step.limit).square() - size.square()
    rise = ((b.square() + a * far).clamp(min=0).sqrt() - b) / a.clamp(min=TINY)
    root = (boldness + rise).clamp(max=top)
    sound = meets & (root > timid) & (root < bold) & (a > 0)
    following = torch.where(sound, root, (timid * bold).sqrt().clamp(max=top))
    ahead = torch.where(meets, met.ahead + met.missing / rate + turn * (following - boldness), search.ahead)
    full = fits & ((size >= FULL * step.limit) | (boldness >= top))
    done = (full | (bold <= CLOSE * timid)).squeeze(1)
    return Search(best, following, timid, bold, ahead, search.done | done)


def _meeting(shrinkage: Shrinkage, step: Step, low: Rows, high: Rows, ahead: Column) -> Met:
    """The move of a boldness that meets the plane.

    Its gain, g . move, is a rising, piecewise linear function of the multiplier: Newton's method starts from `ahead`
    and stays between multipliers that were too small and too large; if it has no slope or leaves them, it bisects, or
    leaps on while there is no bound. Rows whose limits keep them from the plane are left where they are.
    """
    tolerance = EXACTLY * step.exact
    hopeless = _out_of_reach(step, low, high) if shrinkage.narrows else None
    under, over = torch.full_like(ahead, -torch.inf), torch.full_like(ahead, torch.inf)
    for left in reversed(range(NEWTON)):
        pulled, follows = shrinkage.pulled(ahead * step.g)
        move = torch.clamp(pulled, low, high)
        along = number(torch.eq, move, pulled).mul_(step.g)
        if follows is not None:
            along.mul_(follows)
        missing = step.need - (move * step.g).sum(dim=1, keepdim=True)
        rate = (along * step.g).sum(dim=1, keepdim=True)
        unsettled = missing.abs() > tolerance
        if hopeless is not None:
            unsettled &= ~hopeless
        if not left or (ahead.device.type == "cpu" and not unsettled.any()):
            break
        short = missing > 0
        under, over = torch.where(short, ahead, under), torch.where(short, over, ahead)
        newton = ahead + missing / rate.clamp(min=TINY)
        sound = (newton >= under) & (newton <= over) & (rate > 0)
        if not (sound.device.type == "cpu" and sound.all()):
            middle = (under + over) / 2
            farther = ahead + missing.sign() * torch.maximum(2 * ahead.abs(), step.leap)
            newton = torch.where(sound, newton, torch.where(middle.isfinite(), middle, farther))
        ahead = torch.where(unsettled, newton, ahead)
    return Met(move, along, ahead, missing, rate)


def _out_of_reach(step: Step, low: Rows, high: Rows) -> Bool[Tensor, "B 1"]:
    """Whether all coordinates at their limits miss the plane.

    Sums of floats in a fixed order rise with their terms, as exact ones do: no move that meets the plane is missed.
    """
    ends = step.g * high, step.g * torch.minimum(low, high)
    highest, lowest = (side(*ends).sum(dim=1, keepdim=True) for side in (torch.maximum, torch.minimum))
    return (step.need - highest > step.exact) | (lowest - step.need > step.exact)
