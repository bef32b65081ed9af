from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...problem.noise import uniform
from ...problem.shapes import Inputs, PerExample, choose, per_candidate, per_example
from ...problem.threats import Ball
from ...problem.threats.linear import number
from ...settings import Bounds, Count
from ..attack import Batch, Candidates, LabelAttack, State, where_rows
from ..some_rows import rows_where, some, step_where
from .starts import nearest, pick, sizes

RESOLUTION = 1 / 512  # of a value: half a grey level of 256
AGAIN = 0.25  # largest share of the values that noise changes on top of a finished point

SEEK, RUNS, SINGLES, SECTION = range(4)

Images = Float[Tensor, "L C H W"]
Counts = Int[Tensor, "L"]
Places = Int[Tensor, "L *D"]
PerCandidate = Float[Tensor, "L W"]
Fools = Bool[Tensor, "L W"]


@dataclass(frozen=True)
class PointwiseState(State):
    """A misclassified point x + delta, once there is a start, and the order in which its changes are undone.

    A unit is a value of the image, or a pixel where the threat model counts pixels. The changed units stand in a line,
    in the order in which they are tried.
    """

    phase: Counts
    taken: Counts  # answers so far
    seeks: Counts  # passes in search of this start
    place: Places  # of every value's unit in the line, counted from 0; behind all units if unchanged
    units: Counts
    cursor: Counts  # the next place in the line to try
    fails: Counts  # this many units from there cannot be reset together; more than exist before the first try
    quiet: Counts  # units tried since the last change
    floor: PerExample  # the largest change of the unit at the cursor that did not fool
    best: Inputs  # the nearest finished point, at which no unit could move; 0 before the first
    size: PerExample  # of best; infinite before the first


@dataclass(frozen=True)
class Moves:
    """The change of each candidate: units at the places first to last - 1 are cut to at most `bound`."""

    first: Int[Tensor, "L #W"]
    last: Int[Tensor, "L W"]
    bound: PerCandidate


@dataclass(frozen=True)
class Pointwise(LabelAttack[Ball, PointwiseState]):
    """Noise that fools, moved back to the image value by value until no single value can come closer.

    Schott et al. 2019, https://arxiv.org/abs/1805.09190. As in the paper, values first return to the image if that
    still fools, and then come as near as they can, found by section instead of bisection. Three things differ. Values
    return many at a time: section finds the longest beginning of the line that can return, and the value after it
    stays. The line is not in random order: it starts far from a random point of the image, which leaves smaller
    changes. The rest of the budget goes to further searches, from noise on top of the nearest point; a search that
    cannot come nearer is stopped.
    """

    name: ClassVar[str] = "pointwise"
    source: ClassVar[str] = "Pointwise attack, Schott et al. 2019, https://arxiv.org/abs/1805.09190"
    threats: ClassVar[tuple[str, ...]] = ("l1", "l0")
    minimises: ClassVar[bool] = True
    comes_from_outside: ClassVar[bool] = True

    steps: Count = 500  # passes of `queries_per_step` queries each
    queries_per_step: Annotated[int, Bounds(2, even=True, why="it queries pairs of images")] = (
        4  # images that each example queries at once; fewer at once means fewer in total
    )

    def max_queries(self, threat: Ball) -> int:
        return self.steps

    def start(self, threat: Ball, batch: Batch) -> PointwiseState:
        still, none = torch.zeros_like(batch.x), torch.zeros_like(batch.keys)
        zero = torch.zeros_like(still.flatten(1)[:, 0])
        return PointwiseState(
            delta=still,
            phase=none + SEEK,
            taken=none,
            seeks=none,
            place=torch.zeros_like(still, dtype=torch.long),
            units=none,
            cursor=none,
            fails=none + 1,
            quiet=none,
            floor=zero,
            best=still,
            size=zero + torch.inf,
        )

    def query(self, threat: Ball, batch: Batch, state: PointwiseState) -> Candidates:
        moved, seek = _moved(state, self._moves(threat, state)), state.phase == SEEK
        if (rows := rows_where(seek)) is None:
            moved = choose(seek, self._noisy(batch, state), moved)
        elif rows.numel():
            moved = moved.index_copy(0, rows, self._noisy(some(batch, rows), some(state, rows)))
        return (batch.x[:, None] + moved).clamp(0, 1)

    def step(self, threat: Ball, batch: Batch, state: PointwiseState, labels: Int[Tensor, "L W"]) -> PointwiseState:
        fools, moves, phase = labels != batch.y[:, None], self._moves(threat, state), state.phase
        answered = (self._sought, self._ran, self._tried, self._narrowed)
        for which, move in zip((SEEK, RUNS, SINGLES, SECTION), answered, strict=True):
            state = step_where(phase == which, partial(move, threat), state, batch, fools, moves)
        return replace(state, taken=state.taken + 1)

    # The queries of each phase

    def _moves(self, threat: Ball, state: PointwiseState) -> Moves:
        """The candidates of all phases except SEEK."""
        number = torch.arange(1, self.queries_per_step + 1, device=state.cursor.device)
        cursor, zero = state.cursor[:, None], torch.zeros_like(state.floor)[:, None].expand(-1, self.queries_per_step)
        lengths = _lengths(state)
        # RUNS: beginnings of the rest of the line
        first, last, bound = cursor.expand(-1, self.queries_per_step), cursor + self._beginnings(state), zero
        # SINGLES: units one by one, each back to the image and, unless pixels count, closer by the resolution
        single = (cursor + (number - 1) // self._queries_per_unit(threat)) % state.units.clamp(min=1)[:, None]
        closer = (number % self._queries_per_unit(threat) == 0) & (self._queries_per_unit(threat) > 1)
        nudged = torch.where(closer, (lengths.gather(1, single) - RESOLUTION).clamp(min=0), 0)
        # SECTION: the unit at the cursor, between a change that does not fool and one that does
        floor = state.floor[:, None]
        levels = floor + (lengths.gather(1, cursor) - floor) * number / (self.queries_per_step + 1)
        for phase, f, n, k in ((SINGLES, single, 1, nudged), (SECTION, cursor, 1, levels)):
            here = (state.phase == phase)[:, None]
            first, last, bound = (
                torch.where(here, f, first),
                torch.where(here, f + n, last),
                torch.where(here, k, bound),
            )
        return Moves(first, last, bound)

    def _beginnings(self, state: PointwiseState) -> Int[Tensor, "L W"]:
        """The numbers of units to reset together from the cursor: of all magnitudes, then an even division of a gap."""
        number = torch.arange(1, self.queries_per_step + 1, device=state.cursor.device)
        rest = (state.units - state.cursor).clamp(min=1)
        limit = torch.minimum(rest, (state.fails - 1).clamp(min=1))[:, None]
        magnitudes = (limit.double() ** (number / self.queries_per_step)).round().long()
        shares = (limit * number // self.queries_per_step).clamp(min=1)
        return torch.where((state.fails > rest)[:, None], magnitudes, shares)

    def _queries_per_unit(self, threat: Ball) -> int:
        """Queries for a single unit: where changed pixels are counted, the length of a change does not matter."""
        return 1 if threat.counts_pixels else 2

    def _yields(self, threat: Ball, staying: Inputs) -> PerExample:
        """The amount by which the remaining changes can still shrink; usually only one value comes closer."""
        largest = staying.flatten(1).abs().amax(dim=1)
        return torch.zeros_like(largest) if threat.counts_pixels else largest

    def _noisy(self, batch: Batch, state: PointwiseState) -> Candidates:
        """Delta with ever larger shares replaced by noise, at first by salt and pepper."""
        numbers = uniform(batch.keys, 2 * state.taken, 2 * batch.x[0].numel())
        order, noise = numbers.view(-1, 2, *batch.x.shape[1:]).unbind(1)
        kind = per_example(state.seeks % 6, noise)
        image = (noise > 0.5).to(noise.dtype)
        others = (torch.ones_like(noise), 1 - batch.x, torch.zeros_like(noise), noise, torch.full_like(noise, 0.5))
        for index, other in enumerate(others):
            image = torch.where(kind == index + 1, other, image)
        highest = torch.where(state.size.isinf(), 1.0, AGAIN)
        density = highest[:, None] * _shares(self.queries_per_step, noise.device)
        replaced = order[:, None] < per_candidate(density, noise[:, None])
        return torch.where(replaced, (image - batch.x)[:, None], state.best[:, None])

    # The next states

    def _sought(self, threat: Ball, state: PointwiseState, batch: Batch, fools: Fools, moves: Moves) -> PointwiseState:
        noisy = self._noisy(batch, state)
        size, which = nearest(fools, sizes(threat, noisy))
        delta = pick(noisy, which)
        place, units = _line(threat, batch, delta, restart=2 * state.taken + 1)
        none = torch.zeros_like(units)
        found = replace(
            state, delta=delta, phase=none + RUNS, seeks=none, place=place, units=units, cursor=none, fails=units + 1
        )
        return where_rows(size.isfinite(), found, replace(state, seeks=state.seeks + 1))

    def _ran(self, threat: Ball, state: PointwiseState, batch: Batch, fools: Fools, moves: Moves) -> PointwiseState:
        counts = moves.last - moves.first
        reset = torch.where(fools, counts, 0).amax(dim=1)
        failed = torch.where(fools | (counts <= reset[:, None]), state.fails[:, None], counts).amin(dim=1)
        state = _without(state, reset)
        # If the first of the units alone cannot follow, it stays, and nothing is known about those behind it.
        stays = (failed - reset == 1) & (state.cursor < state.units)
        cursor = state.cursor + stays.long()
        fails = torch.where(stays, state.units - cursor + 1, failed - reset)
        through = cursor >= state.units
        staying = torch.where(state.place < per_example(cursor, state.place), state.delta, 0)
        hopeless = threat.size(staying) - self._yields(threat, staying) >= state.size
        return replace(
            state,
            phase=torch.where(hopeless, SEEK, torch.where(through, SINGLES, RUNS)),
            cursor=torch.where(through, 0, cursor),
            fails=fails,
            quiet=torch.zeros_like(cursor),
        )

    def _tried(self, threat: Ball, state: PointwiseState, batch: Batch, fools: Fools, moves: Moves) -> PointwiseState:
        resets = moves.bound == 0
        which = (fools.long() + (fools & resets)).argmax(dim=1, keepdim=True)  # the first; a reset takes precedence
        none, at = torch.zeros_like(state.units), moves.first.gather(1, which).squeeze(1)
        here = replace(state, cursor=at, quiet=none)
        reset = _without(here, none + 1)
        closer = replace(_shortened(here, moves.bound.gather(1, which).squeeze(1)), phase=none + SECTION)
        closer = replace(closer, floor=torch.zeros_like(state.floor))  # its reset was queried too, and failed
        tried = self.queries_per_step // self._queries_per_unit(threat)
        failed = replace(state, cursor=(state.cursor + tried) % state.units.clamp(min=1), quiet=state.quiet + tried)
        failed = where_rows(failed.quiet >= state.units, _finished(threat, failed), failed)
        return where_rows(fools.any(dim=1), where_rows(resets.gather(1, which).squeeze(1), reset, closer), failed)

    def _narrowed(
        self, threat: Ball, state: PointwiseState, batch: Batch, fools: Fools, moves: Moves
    ) -> PointwiseState:
        length = _lengths(state).gather(1, state.cursor[:, None]).squeeze(1)
        length = torch.minimum(torch.where(fools, moves.bound, torch.inf).amin(dim=1), length)
        floor = torch.where(moves.bound < length[:, None], moves.bound, state.floor[:, None]).amax(dim=1)
        phase = torch.where(length - floor <= RESOLUTION, SINGLES, SECTION)
        return replace(_shortened(state, length), phase=phase, floor=floor)


def _line(threat: Ball, batch: Batch, delta: Inputs, restart: Counts) -> tuple[Places, Counts]:
    """The place of every unit in a new line, and the number of units."""
    changed = delta != 0
    order = _order(batch, restart)
    if threat.counts_pixels:
        order, changed = order[:, :1], changed.any(dim=1, keepdim=True)
    line = torch.where(changed, order, torch.inf).flatten(1).argsort(dim=1, stable=True)
    place = torch.empty_like(line).scatter_(1, line, torch.arange(line.shape[1], device=line.device).expand_as(line))
    units = changed.flatten(1).sum(dim=1)
    return torch.where(changed, place.view_as(order), delta[0].numel()).expand_as(delta), units


def _order(batch: Batch, restart: Counts) -> Images:
    """Sort keys of a line, lowest first: pixels far from a random point of the image."""
    _, _, h, w = batch.x.shape
    centre = uniform(batch.keys, restart, 2)
    i, j = (torch.arange(side, device=centre.device) for side in (h, w))
    far = (i - h * centre[:, :1]).square()[:, :, None] + (j - w * centre[:, 1:]).square()[:, None, :]
    return -far[:, None].expand_as(batch.x)


def _without(state: PointwiseState, gone: Counts) -> PointwiseState:
    """The state after `gone` units from the cursor on are reset and leave the line; those behind them move up."""
    nowhere = state.place[0].numel()
    first = per_example(state.cursor, state.place)
    behind = first + per_example(gone, state.place)
    leaving = (state.place >= first) & (state.place < behind)
    following = (state.place >= behind) & (state.place < nowhere)
    place = torch.where(following, state.place - (behind - first), state.place)
    return replace(
        state,
        delta=state.delta.masked_fill(leaving, 0),
        place=place.masked_fill(leaving, nowhere),
        units=state.units - gone,
    )


def _shortened(state: PointwiseState, bound: PerExample) -> PointwiseState:
    """The state with the unit at the cursor cut to at most `bound`."""
    here, bound = state.place == per_example(state.cursor, state.place), per_example(bound, state.delta)
    return replace(state, delta=torch.where(here, state.delta.clamp(-bound, bound), state.delta))


def _finished(threat: Ball, state: PointwiseState) -> PointwiseState:
    """The state after no unit could move: another search starts."""
    size = threat.size(state.delta)
    nearer = size < state.size
    return replace(
        state,
        phase=torch.full_like(state.phase, SEEK),
        best=choose(nearer, state.delta, state.best),
        size=torch.where(nearer, size, state.size),
    )


def _moved(state: PointwiseState, moves: Moves) -> Candidates:
    """Delta after each of the moves."""
    delta = state.delta[:, None]
    first, last, bound = (per_candidate(t, delta).to(delta.dtype) for t in (moves.first, moves.last, moves.bound))
    place = state.place[:, None].to(delta.dtype).expand(-1, bound.shape[1], *state.place.shape[1:])
    inside = number(torch.ge, place, first).mul_(number(torch.lt, place, last))
    bound = inside.reciprocal_().sub_(1).add_(bound)  # infinite outside
    return torch.clamp(delta, -bound, bound)


def _lengths(state: PointwiseState) -> Float[Tensor, "L N"]:
    """The absolute change of the value at each place in the line."""
    place, length = state.place.flatten(1), state.delta.abs().flatten(1)
    return length.new_zeros(len(place), place.shape[1] + 1).scatter(1, place, length)


@lru_cache
def _shares(queries_per_step: int, device: torch.device) -> Float[Tensor, "W"]:
    return torch.linspace(1 / queries_per_step, 1, queries_per_step, device=device)
