from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...errors import UserError
from ...problem.losses import TARGETED, UNTARGETED, Loss, misclassified
from ...problem.noise import uniform
from ...problem.shapes import Inputs, Mask, PerExample, per_example
from ...problem.threats import EUCLIDEAN, Ball
from ...settings import Bounds, Count, Positive, Targets
from ..attack import Batch, GradientAttack, Seen, State, where_rows
from ..some_rows import step_where
from .boldest_step import boldest
from .starts import faded, of_kind

START, SEARCH, WALK = 0, 1, 2  # the phases of a slot
BEYOND = 1.5  # length of a gradient step of the START phase, in ways to the linearised boundary
KINDS = 20  # images of other kinds that the START phase tries once its noise and its steps have failed
PUSH = 0.01  # share of the reachable gain that a step must make at least to cross the boundary


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


def _boxed(delta: Inputs, x: Inputs) -> Inputs:
    return (x + delta).clamp(0, 1) - x
