from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...problem.noise import uniform
from ...problem.shapes import Inputs, PerExample, per_candidate, per_example
from ...problem.threats import Ball
from ...settings import Bounds, Count
from ..attack import Batch, Candidates, LabelAttack, State, where_rows
from .starts import nearest, pick, sizes

RESOLUTION = 1 / 512  # of a value: half a grey level of 256
AGAIN = 0.25  # share of the values that noise on top of a finished point changes at most

SEEK, RUNS, SINGLES, SECTION = range(4)

Images = Float[Tensor, "L C H W"]
Counts = Int[Tensor, "L"]
Places = Int[Tensor, "L *D"]
PerCandidate = Float[Tensor, "L W"]
Fools = Bool[Tensor, "L W"]


@dataclass(frozen=True)
class PointwiseState(State):
    """`delta` fools, once there is a start. What it changes are units: values, or under l_0 pixels.

    The units stand in a line, in the order in which they are tried.
    """

    phase: Counts
    taken: Counts  # answers so far
    seeks: Counts  # passes that looked for this start
    place: Places  # of every value's unit in the line, counted from 0; behind all units where nothing is changed
    units: Counts
    cursor: Counts  # the place in the line that is tried next
    fails: Counts  # so many units from there cannot be reset together; more than there are where none was tried
    quiet: Counts  # units tried since the last that moved
    floor: PerExample  # the largest change of the unit at the cursor that did not fool
    best: Inputs  # the nearest point at which no unit could move, 0 before there is one
    size: PerExample  # of best, infinite before there is one


@dataclass(frozen=True)
class Moves:
    """What each candidate does to delta: the units at places first to last - 1 change by at most `kept`."""

    first: Int[Tensor, "L #W"]
    last: Int[Tensor, "L W"]
    kept: PerCandidate


@dataclass(frozen=True)
class Pointwise(LabelAttack[Ball, PointwiseState]):
    """From noise that fools, value by value back to the image, until no single one can move any closer.

    Schott et al. 2019, https://arxiv.org/abs/1805.09190. As there, values first return to the image where that still
    fools, then come as near as they can, found by section instead of halving. Three things differ. Values return many
    at a time: of a line of them the longest beginning that can is found by section, and the value after it stays. The
    line is not in random order but begins far from a random point of the image, which leaves smaller changes. And
    what is left of the budget goes to further searches, from noise on top of the nearest point; one that can
    come no nearer is given up.
    """

    name: ClassVar[str] = "pointwise"
    source: ClassVar[str] = "Pointwise attack, Schott et al. 2019, https://arxiv.org/abs/1805.09190"
    threats: ClassVar[tuple[str, ...]] = ("l1", "l0")
    minimises: ClassVar[bool] = True
    comes_from_outside: ClassVar[bool] = True

    steps: Count = 500  # questions of `queries_per_step` images each
    queries_per_step: Annotated[int, Bounds(2, even=True, why="it queries pairs of images")] = (
        4  # images each example asks about at once; narrower needs fewer in all
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
        moved = _moved(state, self._moves(threat, state))
        seek = per_example(state.phase == SEEK, moved)
        return (batch.x[:, None] + torch.where(seek, self._noisy(batch, state), moved)).clamp(0, 1)

    def step(self, threat: Ball, batch: Batch, state: PointwiseState, labels: Int[Tensor, "L W"]) -> PointwiseState:
        fools, moves = labels != batch.y[:, None], self._moves(threat, state)
        after = self._sought(threat, batch, state, fools)
        for phase, answered in ((RUNS, self._ran), (SINGLES, self._tried), (SECTION, self._narrowed)):
            after = where_rows(state.phase == phase, answered(threat, state, fools, moves), after)
        return replace(after, taken=state.taken + 1)

    # What each phase asks about

    def _moves(self, threat: Ball, state: PointwiseState) -> Moves:
        """Of all phases but SEEK."""
        number = torch.arange(1, self.queries_per_step + 1, device=state.cursor.device)
        cursor, zero = state.cursor[:, None], torch.zeros_like(state.floor)[:, None].expand(-1, self.queries_per_step)
        lengths = _lengths(state)
        # RUNS: beginnings of the rest of the line
        first, last, kept = cursor.expand(-1, self.queries_per_step), cursor + self._beginnings(state), zero
        # SINGLES: units one by one, each back to the image and, if values count, closer by the least that matters
        single = (cursor + (number - 1) // self._asks(threat)) % state.units.clamp(min=1)[:, None]
        closer = (number % self._asks(threat) == 0) & (self._asks(threat) > 1)
        nudged = torch.where(closer, (lengths.gather(1, single) - RESOLUTION).clamp(min=0), 0)
        # SECTION: the unit at the cursor, between what does not fool and what does
        floor = state.floor[:, None]
        levels = floor + (lengths.gather(1, cursor) - floor) * number / (self.queries_per_step + 1)
        for phase, f, n, k in ((SINGLES, single, 1, nudged), (SECTION, cursor, 1, levels)):
            here = (state.phase == phase)[:, None]
            first, last, kept = torch.where(here, f, first), torch.where(here, f + n, last), torch.where(here, k, kept)
        return Moves(first, last, kept)

    def _beginnings(self, state: PointwiseState) -> Int[Tensor, "L W"]:
        """How many units from the cursor on to reset together: of every magnitude, then what divides a gap evenly."""
        number = torch.arange(1, self.queries_per_step + 1, device=state.cursor.device)
        rest = (state.units - state.cursor).clamp(min=1)
        most = torch.minimum(rest, (state.fails - 1).clamp(min=1))[:, None]
        magnitudes = (most.double() ** (number / self.queries_per_step)).round().long()
        shares = (most * number // self.queries_per_step).clamp(min=1)
        return torch.where((state.fails > rest)[:, None], magnitudes, shares)

    def _asks(self, threat: Ball) -> int:
        """Questions about a single unit: a pixel that counts as changed may change as it likes."""
        return 1 if threat.counts_pixels else 2

    def _yields(self, threat: Ball, staying: Inputs) -> PerExample:
        """By how much the changes that stay can still shrink: as a rule one value comes closer, and the others hold."""
        most = staying.flatten(1).abs().amax(dim=1)
        return torch.zeros_like(most) if threat.counts_pixels else most

    def _noisy(self, batch: Batch, state: PointwiseState) -> Candidates:
        """Delta with more and more of it replaced by noise, as a rule by salt and pepper."""
        numbers = uniform(batch.keys, 2 * state.taken, 2 * batch.x[0].numel())
        order, noise = numbers.view(-1, 2, *batch.x.shape[1:]).unbind(1)
        kind = per_example(state.seeks % 6, noise)
        image = (noise > 0.5).to(noise.dtype)
        others = (torch.ones_like(noise), 1 - batch.x, torch.zeros_like(noise), noise, torch.full_like(noise, 0.5))
        for number, other in enumerate(others):
            image = torch.where(kind == number + 1, other, image)
        most = torch.where(state.size.isinf(), 1.0, AGAIN)
        density = most[:, None] * _shares(self.queries_per_step, noise.device)
        replaced = order[:, None] < per_candidate(density, noise[:, None])
        return torch.where(replaced, (image - batch.x)[:, None], state.best[:, None])

    # What the answers lead to

    def _sought(self, threat: Ball, batch: Batch, state: PointwiseState, fools: Fools) -> PointwiseState:
        noisy = self._noisy(batch, state)
        size, which = nearest(fools, sizes(threat, noisy))
        delta = pick(noisy, which)
        place, units = _line(threat, batch, delta, restart=2 * state.taken + 1)
        none = torch.zeros_like(units)
        found = replace(
            state, delta=delta, phase=none + RUNS, seeks=none, place=place, units=units, cursor=none, fails=units + 1
        )
        return where_rows(size.isfinite(), found, replace(state, seeks=state.seeks + 1))

    def _ran(self, threat: Ball, state: PointwiseState, fools: Fools, moves: Moves) -> PointwiseState:
        asked = moves.last - moves.first
        most = torch.where(fools, asked, 0).amax(dim=1)
        fewest = torch.where(fools | (asked <= most[:, None]), state.fails[:, None], asked).amin(dim=1)
        state = _without(state, most)
        # Where only the first of the units is known not to follow, it stays, and nothing is known of those behind it.
        stays = (fewest - most == 1) & (state.cursor < state.units)
        cursor = state.cursor + stays.long()
        fails = torch.where(stays, state.units - cursor + 1, fewest - most)
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

    def _tried(self, threat: Ball, state: PointwiseState, fools: Fools, moves: Moves) -> PointwiseState:
        resets = moves.kept == 0
        which = (fools.long() + (fools & resets)).argmax(dim=1, keepdim=True)  # the first, a reset before the others
        none, at = torch.zeros_like(state.units), moves.first.gather(1, which).squeeze(1)
        here = replace(state, cursor=at, quiet=none)
        reset = _without(here, none + 1)
        closer = replace(_shortened(here, moves.kept.gather(1, which).squeeze(1)), phase=none + SECTION)
        closer = replace(closer, floor=torch.zeros_like(state.floor))  # its reset was asked about too, in vain
        tried = self.queries_per_step // self._asks(threat)
        vain = replace(state, cursor=(state.cursor + tried) % state.units.clamp(min=1), quiet=state.quiet + tried)
        vain = where_rows(vain.quiet >= state.units, _finished(threat, vain), vain)
        return where_rows(fools.any(dim=1), where_rows(resets.gather(1, which).squeeze(1), reset, closer), vain)

    def _narrowed(self, threat: Ball, state: PointwiseState, fools: Fools, moves: Moves) -> PointwiseState:
        length = _lengths(state).gather(1, state.cursor[:, None]).squeeze(1)
        length = torch.minimum(torch.where(fools, moves.kept, torch.inf).amin(dim=1), length)
        floor = torch.where(moves.kept < length[:, None], moves.kept, state.floor[:, None]).amax(dim=1)
        phase = torch.where(length - floor <= RESOLUTION, SINGLES, SECTION)
        return replace(_shortened(state, length), phase=phase, floor=floor)


def _line(threat: Ball, batch: Batch, delta: Inputs, restart: Counts) -> tuple[Places, Counts]:
    """The place of every unit in a new line, and how many there are."""
    changed = delta != 0
    order = _order(batch, restart)
    if threat.counts_pixels:
        order, changed = order[:, :1], changed.any(dim=1, keepdim=True)
    line = torch.where(changed, order, torch.inf).flatten(1).argsort(dim=1, stable=True)
    place = torch.empty_like(line).scatter_(1, line, torch.arange(line.shape[1], device=line.device).expand_as(line))
    units = changed.flatten(1).sum(dim=1)
    return torch.where(changed, place.view_as(order), delta[0].numel()).expand_as(delta), units


def _order(batch: Batch, restart: Counts) -> Images:
    """Who comes first has least: pixels far from a random point of the image."""
    _, _, h, w = batch.x.shape
    centre = uniform(batch.keys, restart, 2)
    i, j = (torch.arange(side, device=centre.device) for side in (h, w))
    far = (i - h * centre[:, :1]).square()[:, :, None] + (j - w * centre[:, 1:]).square()[:, None, :]
    return -far[:, None].expand_as(batch.x)


def _without(state: PointwiseState, gone: Counts) -> PointwiseState:
    """So many units from the cursor on are reset and leave the line; those behind them move up."""
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


def _shortened(state: PointwiseState, kept: PerExample) -> PointwiseState:
    """The unit at the cursor changes by at most so much."""
    here, most = state.place == per_example(state.cursor, state.place), per_example(kept, state.delta)
    return replace(state, delta=torch.where(here, state.delta.clamp(-most, most), state.delta))


def _finished(threat: Ball, state: PointwiseState) -> PointwiseState:
    """No unit could move: another start."""
    size = threat.size(state.delta)
    nearer = size < state.size
    return replace(
        state,
        phase=torch.full_like(state.phase, SEEK),
        best=torch.where(per_example(nearer, state.best), state.delta, state.best),
        size=torch.where(nearer, size, state.size),
    )


def _moved(state: PointwiseState, moves: Moves) -> Candidates:
    """Delta with each of the moves."""
    place, delta = state.place[:, None], state.delta[:, None]
    first, last, kept = (per_candidate(t, delta) for t in (moves.first, moves.last, moves.kept))
    return torch.where((place >= first) & (place < last), torch.minimum(torch.maximum(delta, -kept), kept), delta)


def _lengths(state: PointwiseState) -> Float[Tensor, "L N"]:
    """How far the value at each place in the line is changed."""
    place, length = state.place.flatten(1), state.delta.abs().flatten(1)
    return length.new_zeros(len(place), place.shape[1] + 1).scatter(1, place, length)


@lru_cache
def _shares(queries_per_step: int, device: torch.device) -> Float[Tensor, "W"]:
    return torch.linspace(1 / queries_per_step, 1, queries_per_step, device=device)
