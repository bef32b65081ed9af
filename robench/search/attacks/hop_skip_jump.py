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

ESTIMATE, STRIDE = 2, 3  # the phases after START and LINE
MAX = 10_000  # directions of one estimate
FIRST = 3  # passes along the first line
SEARCHES = 3  # passes of an iteration besides its estimate, as a rule: one over strides, two along the line
RAISE = 4.0  # the next search begins with a stride and a gain this many times as large as the last that helped
FAINTEST = 1e-3  # stride or gain that a search begins with


@dataclass(frozen=True)
class HopSkipJumpState(WalkState):
    """The estimate of the direction that fools, and what the next search over strides begins with."""

    iteration: Int[Tensor, "B"]  # counted from 1
    push: Inputs  # sum of the changes asked about since the last move, with the sign of the answer
    drift: Inputs  # the same without the sign
    votes: PerExample  # sum of the signs
    asks: PerExample
    stride: PerExample  # along the estimate, in sizes
    gain: PerExample  # by which share the size falls


@dataclass(frozen=True)
class HopSkipJump(LabelAttack[Ball, HopSkipJumpState]):
    """From the boundary, a stride along an estimate of its normal, then down a line towards the image, to the boundary.

    Chen, Jordan and Wainwright 2019, https://arxiv.org/abs/1904.02144, algorithm 2; in its first version Boundary++.
    The normal is estimated as in the paper, from the answers in 100 sqrt(t) directions; under l_inf the stride goes
    along its sign. Other than there,

    * `queries_per_step` images are asked about at once, so a line is cut into that many parts, not halved;
    * one pass asks about strides and gains together, and the nearest image that fools is where the next line is
      searched. The paper takes the longest stride that fools, and halves the line from its end. It may move away; here
      a point that is left is left for a nearer one, else more directions join the estimate;
    * directions reach as far as the paper's first version says, in Euclidean lengths of the change under both norms;
    * the start is any of several kinds of images; see `starts`.

    40 iterations ask about 21,800 images; those of an iteration that takes fewer go to further ones.
    """

    name: ClassVar[str] = "hop-skip-jump"
    source: ClassVar[str] = "HopSkipJump (Boundary++), Chen et al. 2019, https://arxiv.org/abs/1904.02144"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")
    minimises: ClassVar[bool] = True
    comes_from_outside: ClassVar[bool] = True

    steps: Count = 40  # iterations
    directions: Count = 100  # of the first estimate; iteration t has sqrt(t) times as many
    reach: Annotated[float, Bounds(above=0, high=1)] = 0.01  # of the directions, in lengths of the change
    queries_per_step: Annotated[int, Bounds(4)] = 32  # images that each example asks about at once

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
            asks=zero,
            stride=zero + 1,
            gain=zero + 0.5,
        )
        return self._asking(threat, batch, state)

    def query(self, threat: Ball, batch: Batch, state: HopSkipJumpState) -> Candidates:
        return state.asked

    def step(self, threat: Ball, batch: Batch, state: HopSkipJumpState, labels: Int[Tensor, "L W"]) -> HopSkipJumpState:
        answers = answered(threat, batch, state, labels)
        state = replace(state, passes=state.passes + 1, taken=state.taken + 1)
        # So fine that directions fall on both sides of the boundary: theta of the paper's first version, halved.
        gap = self.reach / (2 * batch.x[0].numel() ** 0.5)
        after = state
        phases: list[tuple[int, Callable[[], HopSkipJumpState]]] = [
            (START, lambda: started(batch, state, answers)),
            (LINE, lambda: lined(batch, state, answers, gap, ESTIMATE)),
            (ESTIMATE, lambda: self._estimated(batch, state, answers)),
            (STRIDE, lambda: self._strode(threat, batch, state, answers)),
        ]
        for phase, then in phases:
            if occupied(state.phase, phase):
                after = where_rows(state.phase == phase, then(), after)
        after = replace(after, passes=torch.where(after.phase == state.phase, after.passes, 0))
        return self._asking(threat, batch, after)

    def _estimated(self, batch: Batch, state: HopSkipJumpState, answers: Answers) -> HopSkipJumpState:
        change = state.asked - (batch.x + state.delta)[:, None]
        vote = torch.where(answers.fools, 1.0, -1.0)
        return replace(
            state,
            push=state.push + (change * per_candidate(vote, change)).sum(dim=1),
            drift=state.drift + change.sum(dim=1),
            votes=state.votes + vote.sum(dim=1),
            asks=state.asks + self.queries_per_step,
            phase=torch.where(state.passes >= self._estimates(state.iteration), STRIDE, ESTIMATE),
        )

    def _strode(self, threat: Ball, batch: Batch, state: HopSkipJumpState, answers: Answers) -> HopSkipJumpState:
        after = moved(batch, state, answers)
        which = nearest(answers.fools, answers.size)[1][:, None]
        strides, gains = self._ladders(state)
        stride, gain = strides.gather(1, which).squeeze(1), gains.gather(1, which).squeeze(1)
        zero, still = torch.zeros_like(gain), torch.zeros_like(state.push)
        next_nearer = (1 - 2 * gain) * state.size  # was asked about, unless this was the nearest
        on = replace(
            after,
            end=pick(self._ends(threat, batch, state), which.squeeze(1)),
            low=torch.where((gain < state.gain) & (next_nearer < after.size), next_nearer, zero),
            push=still,
            drift=still,
            votes=zero,
            asks=zero,
            stride=(RAISE * stride).clamp(max=1),
            gain=(RAISE * gain).clamp(max=0.5),
            phase=torch.full_like(state.phase, LINE),
        )
        again = replace(
            state,
            stride=(state.stride / RAISE).clamp(min=FAINTEST),
            gain=(state.gain / RAISE).clamp(min=FAINTEST),
            phase=torch.full_like(state.phase, ESTIMATE),
        )
        return replace(where_rows(after.size < state.size, on, again), iteration=state.iteration + 1)

    def _asking(self, threat: Ball, batch: Batch, state: HopSkipJumpState) -> HopSkipJumpState:
        """With the candidates of the phase."""
        asked = state.asked
        phases: list[tuple[int, Callable[[], Candidates]]] = [
            (START, lambda: starts(threat, batch.x, self._noise(batch, state), state)),
            (LINE, lambda: along_line(threat, batch, state, self.queries_per_step)),
            (ESTIMATE, lambda: self._directions(threat, batch, state)),
            (STRIDE, lambda: self._strides(threat, batch, state)),
        ]
        for phase, images in phases:
            if occupied(state.phase, phase):
                asked = torch.where(per_example(state.phase == phase, asked), images(), asked)
        return replace(state, asked=asked)

    def _noise(self, batch: Batch, state: HopSkipJumpState) -> Noise:
        return noise_of(batch.keys, state.taken, self.queries_per_step, batch.x)

    def _directions(self, threat: Ball, batch: Batch, state: HopSkipJumpState) -> Candidates:
        """Around the point: normal noise, under l_inf uniform noise, all of the same length."""
        noise = 2 * self._noise(batch, state)[..., : batch.x[0].numel()] - 1
        noise = noise if threat.separable else torch.erfinv(noise)
        unit = (noise / noise.norm(dim=2, keepdim=True)).view_as(state.asked)
        reach = self.reach * state.delta.flatten(1).norm(dim=1)
        asked: Tensor = (batch.x + state.delta)[:, None] + per_example(reach, unit) * unit
        return asked.clamp(0, 1)

    def _strides(self, threat: Ball, batch: Batch, state: HopSkipJumpState) -> Candidates:
        gains = self._ladders(state)[1]
        size = torch.where(state.size.isfinite(), state.size, 0)
        return faded(threat, batch.x, self._ends(threat, batch, state), (1 - gains) * size[:, None])

    def _ends(self, threat: Ball, batch: Batch, state: HopSkipJumpState) -> Candidates:
        """Where the stride of every candidate leads, before it gains."""
        mean = state.votes / state.asks.clamp(min=1)
        mean = torch.where(mean.abs() == 1, 0, mean)  # all answers agree: their sum is all there is to go by
        along = threat.steepest(state.push - per_example(mean, state.drift) * state.drift)
        size = torch.where(state.size.isfinite(), state.size, 0)
        stride = size[:, None] * self._ladders(state)[0]
        x = batch.x[:, None]
        return (x + state.delta[:, None] + along[:, None] * per_candidate(stride, x)).clamp(0, 1) - x

    def _ladders(self, state: HopSkipJumpState) -> tuple[PerCandidate, PerCandidate]:
        """The stride and the gain of every candidate: halvings of both, each with each."""
        number = torch.arange(self.queries_per_step, device=state.stride.device)
        gains = round(self.queries_per_step**0.5)
        return state.stride[:, None] * 0.5 ** (number // gains), state.gain[:, None] * 0.5 ** (number % gains)

    def _estimates(self, iteration: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        """Passes that the estimate of an iteration takes."""
        directions = (self.directions * iteration.sqrt()).clamp(max=MAX)
        return (directions / self.queries_per_step).ceil().long()
