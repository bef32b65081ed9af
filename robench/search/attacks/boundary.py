from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...problem.shapes import Inputs, PerExample, per_candidate, per_example
from ...problem.threats import Ball
from ...settings import Bounds, Count, NonNegative
from ..attack import Batch, Candidates, LabelAttack, where_rows
from .starts import (
    LINE,
    START,
    Answers,
    Noise,
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
    started,
    starts,
)

Ladder = Float[Tensor, "W"]

TINY = 1e-30  # keeps 0 / 0 away
WALK = 2  # the phase after START and LINE
GAP = 1e-2  # of the distance: how near to the boundary the walk starts
TRIALS = 4  # one candidate in so many keeps its distance, to measure how flat the boundary is
RECENT = 0.8  # weight of the past in the success rate
FLAT, BENT = 0.5, 0.2  # success rates of trials: above the first, steps grow; below the second, they shrink
FACTOR = 1.5
SMALLEST, LARGEST = 1e-4, (1.0, 0.5)  # of the steps around and towards
MAX = 0.6  # share of the distance that one step may gain


@dataclass(frozen=True)
class BoundaryState(WalkState):
    """The lengths of the next steps, and the mean direction of recent successes."""

    around: PerExample  # orthogonal step, in distances
    towards: PerExample  # step towards the image, in distances
    flatness: PerExample  # success rate of recent trials
    memory: Inputs  # mean of recent unit steps around: successes minus failures


@dataclass(frozen=True)
class Boundary(LabelAttack[Ball, BoundaryState]):
    """A walk along the boundary: a random step around the image, then one towards it, accepted if it still fools.

    Brendel, Rauber and Bethge 2018, https://arxiv.org/abs/1712.04248. As in the paper, the length of the step around
    follows the success rate at equal distance, and the length of the step towards the image its own success. Three
    things differ:

    * `queries_per_step` images are queried at once, with several lengths of both steps, and the nearest that fools is
      the next point;
    * half of a step around is the mean of earlier successes: the prior of the biased boundary attack, Brunner et al.
      2019, https://arxiv.org/abs/1812.09803;
    * the start is one of several kinds of images, and the line from it to the image is searched first; see `starts`.

    1000 passes of 32 queries are about as many queries as the paper's 5000 iterations with a few trials each.
    """

    name: ClassVar[str] = "boundary"
    source: ClassVar[str] = "Boundary attack, Brendel et al. 2018, https://arxiv.org/abs/1712.04248"
    threats: ClassVar[tuple[str, ...]] = ("l2",)
    minimises: ClassVar[bool] = True
    comes_from_outside: ClassVar[bool] = True

    steps: Count = 1000  # passes
    around: NonNegative = 0.03  # the first orthogonal step, in distances
    towards: NonNegative = 0.01  # the first step towards the image, in distances
    memory: Annotated[float, Bounds(0, below=1)] = 0.9  # weight of the past in the mean direction
    bias: NonNegative = 1.0  # weight of the mean direction beside a random one
    queries_per_step: Annotated[int, Bounds(TRIALS)] = 32  # images that each example queries at once

    def max_queries(self, threat: Ball) -> int:
        return self.steps

    def start(self, threat: Ball, batch: Batch) -> BoundaryState:
        zero = torch.zeros_like(batch.x.flatten(1)[:, 0])
        state = BoundaryState(
            **fresh(batch, self.queries_per_step),
            around=zero + self.around,
            towards=zero + self.towards,
            flatness=zero + (FLAT + BENT) / 2,
            memory=torch.zeros_like(batch.x),
        )
        return self._with_candidates(threat, batch, state)

    def query(self, threat: Ball, batch: Batch, state: BoundaryState) -> Candidates:
        return state.candidates

    def step(self, threat: Ball, batch: Batch, state: BoundaryState, labels: Int[Tensor, "L W"]) -> BoundaryState:
        answers = answered(threat, batch, state, labels)
        state = replace(state, passes=state.passes + 1, taken=state.taken + 1)
        after = state
        phases: list[tuple[int, Callable[[], BoundaryState]]] = [
            (START, lambda: started(batch, state, answers)),
            (LINE, lambda: lined(batch, state, answers, GAP, WALK)),
            (WALK, lambda: self._walked(batch, state, answers)),
        ]
        for phase, then in phases:
            if occupied(state.phase, phase):
                after = where_rows(state.phase == phase, then(), after)
        return self._with_candidates(threat, batch, after)

    def _walked(self, batch: Batch, state: BoundaryState, answers: Answers) -> BoundaryState:
        fools = answers.fools.to(state.size.dtype)
        flatness = RECENT * state.flatness + (1 - RECENT) * fools[:, ::TRIALS].mean(dim=1)
        bolder = torch.where(flatness > FLAT, FACTOR, torch.where(flatness < BENT, 1 / FACTOR, 1.0))
        size, which = nearest(answers.fools & (answers.size < state.size[:, None]), answers.size)
        successful = 1.2 * self._lengths(state)[2][which].clamp(min=0.25).sqrt()  # towards the length that succeeded
        nearer = torch.where(size.isfinite(), successful, 1 / FACTOR)

        out = _unit(state.delta[:, None])
        aside = _unit(_orthogonal(state.candidates - batch.x[:, None], out))
        vote = per_candidate(fools - fools.mean(dim=1, keepdim=True), aside)
        return replace(
            moved(batch, state, answers),
            around=(state.around * bolder).clamp(SMALLEST, LARGEST[0]),
            towards=(state.towards * nearer).clamp(SMALLEST, LARGEST[1]),
            flatness=torch.where(bolder != 1, (FLAT + BENT) / 2, flatness),
            memory=self.memory * state.memory + (1 - self.memory) * (aside * vote).mean(dim=1),
        )

    def _with_candidates(self, threat: Ball, batch: Batch, state: BoundaryState) -> BoundaryState:
        """The state with the next candidates of its phase."""
        candidates = state.candidates
        phases: list[tuple[int, Callable[[], Candidates]]] = [
            (START, lambda: starts(threat, batch.x, self._noise(batch, state), state)),
            (LINE, lambda: along_line(threat, batch, state, self.queries_per_step)),
            (WALK, lambda: self._candidates(threat, batch, state)),
        ]
        for phase, images in phases:
            if occupied(state.phase, phase):
                candidates = torch.where(per_example(state.phase == phase, candidates), images(), candidates)
        return replace(state, candidates=candidates)

    def _noise(self, batch: Batch, state: BoundaryState) -> Noise:
        return noise_of(batch.keys, state.taken, self.queries_per_step, batch.x)

    def _candidates(self, threat: Ball, batch: Batch, state: BoundaryState) -> Candidates:
        """Candidates of the walk: a step around, scaled back to the same distance, then a step towards the image."""
        bias, around, towards = self._lengths(state)
        random = torch.erfinv(2 * self._noise(batch, state)[..., : batch.x[0].numel()] - 1).view_as(state.candidates)
        out = _unit(state.delta[:, None])
        aside = _unit(random) + per_candidate(bias[None], random) * _unit(state.memory[:, None])
        aside = _unit(_orthogonal(aside, out))
        size = torch.where(state.size.isfinite(), state.size, 0)
        turned = _unit(out + per_candidate(state.around[:, None] * around, aside) * aside)
        there = (batch.x[:, None] + turned * per_example(size, turned)).clamp(0, 1) - batch.x[:, None]
        far = size[:, None] * (1 - (state.towards[:, None] * towards).clamp(max=MAX))
        return faded(threat, batch.x, there, far)

    def _lengths(self, state: BoundaryState) -> tuple[Ladder, Ladder, Ladder]:
        """The bias of every candidate, and its step lengths around and towards as multiples of the slot's."""
        number = torch.arange(self.queries_per_step, device=state.size.device)
        trial, rung = number % TRIALS == 0, number - number // TRIALS - 1
        bias = torch.where(trial, 0.0, self.bias * 2.0 ** (rung % 4 - 1))
        return bias, torch.where(trial, 1.0, 2.0 ** (rung % 3 - 1)), torch.where(trial, 0.0, 2.0 ** (rung // 3 % 4 - 2))


def _orthogonal(v: Tensor, unit: Tensor) -> Tensor:
    """The component of each candidate orthogonal to a unit vector."""
    along: Tensor = per_candidate((v * unit).flatten(2).sum(dim=2), v)
    return v - along * unit


def _unit(v: Tensor) -> Tensor:
    """Candidates scaled to length 1; zero stays zero."""
    length: Tensor = v.flatten(2).norm(dim=2).clamp(min=TINY)
    return v / per_candidate(length, v)
