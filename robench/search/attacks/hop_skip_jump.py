from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.shapes import Inputs, PerExample, per_candidate, per_example
from ...problem.threats import Ball
from ...settings import Bounds, Count
from ..attack import Batch, Candidates, LabelAttack, where_rows
from .starts import (
    LINE,
    START,
    STARTS,
    Answers,
    Noise,
    PerCandidate,
    WalkState,
    along_line,
    answered,
    faded,
    fresh,
    lined,
    moved,
    nearest,
    noise_of,
    occupied,
    pick,
    started,
    starts,
)

ESTIMATE, STEP = 2, 3  # the phases after START and LINE
MAX = 10_000  # directions of one estimate
FIRST = 3  # passes along the first line
SEARCHES = 3  # passes of an iteration besides its estimate, usually: one over step sizes, two along the line
RAISE = 4.0  # the next search starts with a step size and a gain this many times those of the last success
FAINTEST = 1e-3  # the smallest step size or gain that a search starts with


@dataclass(frozen=True)
class HopSkipJumpState(WalkState):
    """The estimate of the boundary's normal, and where the next search over step sizes starts."""

    iteration: Int[Tensor, "B"]  # counted from 1
    push: Inputs  # sum of the queried changes since the last move, with the sign of the answer
    drift: Inputs  # the same without the sign
    votes: PerExample  # sum of the signs
    queries: PerExample
    step_size: PerExample  # step size along the estimate, in sizes of delta
    gain: PerExample  # share by which the size falls


@dataclass(frozen=True)
class HopSkipJump(LabelAttack[Ball, HopSkipJumpState]):
    """A step from the boundary along an estimate of its normal, then a line search back to the boundary.

    Chen, Jordan and Wainwright 2019, https://arxiv.org/abs/1904.02144, algorithm 2; Boundary++ in its first version.
    The normal is estimated as in the paper, from the answers in 100 sqrt(t) directions; under l_inf the step goes along
    its sign. Four things differ:

    * `queries_per_step` images are queried at once, so a line is cut into that many parts instead of two;
    * one pass queries step sizes and gains together, and the next line search goes to the nearest image that fools. The
      paper takes the largest step that fools and bisects the line from its end, which may move away from the image;
      here only a nearer point replaces the old one, and otherwise more directions join the estimate;
    * directions are as long as in the paper's first version, in Euclidean lengths of the change under both norms;
    * the start is one of several kinds of images; see `starts`.

    40 iterations make 21,800 queries; queries that an iteration saves go to further iterations.
    """

    name: ClassVar[str] = "hop-skip-jump"
    source: ClassVar[str] = "HopSkipJump (Boundary++), Chen et al. 2019, https://arxiv.org/abs/1904.02144"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")
    minimises: ClassVar[bool] = True
    comes_from_outside: ClassVar[bool] = True

    steps: Count = 40  # iterations
    directions: Count = 100  # of the first estimate; iteration t has sqrt(t) times as many
    reach: Annotated[float, Bounds(above=0, high=1)] = 0.01  # length of the directions, in lengths of the change
    queries_per_step: Annotated[int, Bounds(4)] = 32  # images that each example queries at once

    def max_queries(self, threat: Ball) -> int:
        estimates = int(self._estimates(torch.arange(1, self.steps + 1)).sum())
        return STARTS + FIRST + estimates + SEARCHES * self.steps

    def start(self, threat: Ball, batch: Batch) -> HopSkipJumpState:
        still, zero = torch.zeros_like(batch.x), torch.zeros_like(batch.x.flatten(1)[:, 0])
        state = HopSkipJumpState(
            **fresh(batch, self.queries_per_step),
            iteration=torch.ones_like(batch.keys),
            push=still,
            drift=still,
            votes=zero,
            queries=zero,
            step_size=zero + 1,
            gain=zero + 0.5,
        )
        return self._with_candidates(threat, batch, state)

    def query(self, threat: Ball, batch: Batch, state: HopSkipJumpState) -> Candidates:
        return state.candidates

    def step(self, threat: Ball, batch: Batch, state: HopSkipJumpState, labels: Int[Tensor, "L W"]) -> HopSkipJumpState:
        answers = answered(threat, batch, state, labels)
        state = replace(state, passes=state.passes + 1, taken=state.taken + 1)
        # Fine enough for directions on both sides of the boundary: theta of the paper's first version, halved.
        gap = self.reach / (2 * batch.x[0].numel() ** 0.5)
        after = state
        phases: list[tuple[int, Callable[[], HopSkipJumpState]]] = [
            (START, lambda: started(batch, state, answers)),
            (LINE, lambda: lined(batch, state, answers, gap, ESTIMATE)),
            (ESTIMATE, lambda: self._estimated(batch, state, answers)),
            (STEP, lambda: self._stepped(threat, batch, state, answers)),
        ]
        for phase, then in phases:
            if occupied(state.phase, phase):
                after = where_rows(state.phase == phase, then(), after)
        after = replace(after, passes=torch.where(after.phase == state.phase, after.passes, 0))
        return self._with_candidates(threat, batch, after)

    def _estimated(self, batch: Batch, state: HopSkipJumpState, answers: Answers) -> HopSkipJumpState:
        change = state.candidates - (batch.x + state.delta)[:, None]
        vote = torch.where(answers.fools, 1.0, -1.0)
        return replace(
            state,
            push=state.push + (change * per_candidate(vote, change)).sum(dim=1),
            drift=state.drift + change.sum(dim=1),
            votes=state.votes + vote.sum(dim=1),
            queries=state.queries + self.queries_per_step,
            phase=torch.where(state.passes >= self._estimates(state.iteration), STEP, ESTIMATE),
        )

    def _stepped(self, threat: Ball, batch: Batch, state: HopSkipJumpState, answers: Answers) -> HopSkipJumpState:
        after = moved(batch, state, answers)
        which = nearest(answers.fools, answers.size)[1][:, None]
        step_sizes, gains = self._ladders(state)
        step_size, gain = step_sizes.gather(1, which).squeeze(1), gains.gather(1, which).squeeze(1)
        zero, still = torch.zeros_like(gain), torch.zeros_like(state.push)
        next_nearer = (1 - 2 * gain) * state.size  # was queried, unless this was the nearest
        on = replace(
            after,
            end=pick(self._ends(threat, batch, state), which.squeeze(1)),
            low=torch.where((gain < state.gain) & (next_nearer < after.size), next_nearer, zero),
            push=still,
            drift=still,
            votes=zero,
            queries=zero,
            step_size=(RAISE * step_size).clamp(max=1),
            gain=(RAISE * gain).clamp(max=0.5),
            phase=torch.full_like(state.phase, LINE),
        )
        again = replace(
            state,
            step_size=(state.step_size / RAISE).clamp(min=FAINTEST),
            gain=(state.gain / RAISE).clamp(min=FAINTEST),
            phase=torch.full_like(state.phase, ESTIMATE),
        )
        return replace(where_rows(after.size < state.size, on, again), iteration=state.iteration + 1)

    def _with_candidates(self, threat: Ball, batch: Batch, state: HopSkipJumpState) -> HopSkipJumpState:
        """The state with the next candidates of its phase."""
        candidates = state.candidates
        phases: list[tuple[int, Callable[[], Candidates]]] = [
            (START, lambda: starts(threat, batch.x, self._noise(batch, state), state)),
            (LINE, lambda: along_line(threat, batch, state, self.queries_per_step)),
            (ESTIMATE, lambda: self._directions(threat, batch, state)),
            (STEP, lambda: self._steps_ahead(threat, batch, state)),
        ]
        for phase, images in phases:
            if occupied(state.phase, phase):
                candidates = torch.where(per_example(state.phase == phase, candidates), images(), candidates)
        return replace(state, candidates=candidates)

    def _noise(self, batch: Batch, state: HopSkipJumpState) -> Noise:
        return noise_of(batch.keys, state.taken, self.queries_per_step, batch.x)

    def _directions(self, threat: Ball, batch: Batch, state: HopSkipJumpState) -> Candidates:
        """Points around the current one, at equal distance: normal noise, or uniform noise for a separable ball."""
        noise = 2 * self._noise(batch, state)[..., : batch.x[0].numel()] - 1
        noise = noise if threat.separable else torch.erfinv(noise)
        unit = (noise / noise.norm(dim=2, keepdim=True)).view_as(state.candidates)
        reach = self.reach * state.delta.flatten(1).norm(dim=1)
        candidates: Tensor = (batch.x + state.delta)[:, None] + per_example(reach, unit) * unit
        return candidates.clamp(0, 1)

    def _steps_ahead(self, threat: Ball, batch: Batch, state: HopSkipJumpState) -> Candidates:
        gains = self._ladders(state)[1]
        size = torch.where(state.size.isfinite(), state.size, 0)
        return faded(threat, batch.x, self._ends(threat, batch, state), (1 - gains) * size[:, None])

    def _ends(self, threat: Ball, batch: Batch, state: HopSkipJumpState) -> Candidates:
        """The end of every candidate's step, before the gain."""
        mean = state.votes / state.queries.clamp(min=1)
        mean = torch.where(mean.abs() == 1, 0, mean)  # all answers agree: only their sum is left
        along = threat.steepest(state.push - per_example(mean, state.drift) * state.drift)
        size = torch.where(state.size.isfinite(), state.size, 0)
        step_size = size[:, None] * self._ladders(state)[0]
        x = batch.x[:, None]
        return (x + state.delta[:, None] + along[:, None] * per_candidate(step_size, x)).clamp(0, 1) - x

    def _ladders(self, state: HopSkipJumpState) -> tuple[PerCandidate, PerCandidate]:
        """The step size and the gain of every candidate: all pairs of halvings of both."""
        number = torch.arange(self.queries_per_step, device=state.step_size.device)
        gains = round(self.queries_per_step**0.5)
        return state.step_size[:, None] * 0.5 ** (number // gains), state.gain[:, None] * 0.5 ** (number % gains)

    def _estimates(self, iteration: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        """The number of passes for the estimate of an iteration."""
        directions = (self.directions * iteration.sqrt()).clamp(max=MAX)
        return (directions / self.queries_per_step).ceil().long()
