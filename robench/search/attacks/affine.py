"""Two perturbations that share one budget: Tramèr and Boneh 2019, sections 2.5 and 5, https://arxiv.org/abs/1904.13000"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...errors import UserError
from ...problem.losses import UNTARGETED, Loss, LossName
from ...problem.noise import normal, uniform
from ...problem.shapes import Inputs, Mask, PerExample, per_example
from ...problem.threats import RT, AffineBalls, AffineRT, Ball, inward
from ...problem.threats.base import N_PARAMS, TransformParams
from ...settings import Bounds, Count
from ..attack import Attack, Batch, CandidateParams, GradientAttack, Seen, State, where_rows
from .slide import sparse

PERCENTILE = 99.0  # of a SLIDE step
MIN = 1e-6  # share of a radius: a ball of radius 0 has no geometry


@dataclass(frozen=True)
class _Affine(Attack):
    """The settings both forms share: how the budget is split."""

    steps: Count = 100  # moves at one split; a share of the radius each, 2.5 / steps as in Madry's rule
    loss: LossName = "margin"
    splits: Annotated[int, Bounds(0)] = (
        0  # 0 draws one split at random; n tries 0, 1 / (n - 1), ..., 1 one after the other
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.splits == 1:
            raise UserError("an affine attack splits its budget at random (splits=0) or in at least 2 ways (splits=11)")

    @property
    def objective(self) -> Loss:
        """The loss it climbs."""
        return UNTARGETED[self.loss]

    def beta(self, batch: Batch, split: Int[Tensor, "B"]) -> PerExample:
        """The share of the budget for the first part, at split number so and so."""
        if not self.splits:
            return uniform(batch.keys, 0, 1).squeeze(1)
        return (split / (self.splits - 1)).clamp(max=1).to(batch.x.dtype)


@dataclass(frozen=True)
class AffineLpState(State):
    """Two perturbations, whose sum is asked about once the box has cut it."""

    one: Inputs
    two: Inputs
    moves: Int[Tensor, "B"]  # at this split
    split: Int[Tensor, "B"]  # number of the split


@dataclass(frozen=True)
class AffineLp(_Affine, GradientAttack[AffineBalls, AffineLpState]):
    """Two perturbations inside shares of two balls, moved in turn by the gradient at their sum.

    As in the authors' code both take `steps` moves, so a split takes twice as many, and beta is uniform in each draw.
    A ball of l_1 is climbed with SLIDE's step. Steps shrink with the share of the radius; theirs do not under l_1.
    """

    name: ClassVar[str] = "affine-lp"
    source: ClassVar[str] = "Affine l_p attack, Tramèr and Boneh 2019, https://arxiv.org/abs/1904.13000"
    threats: ClassVar[tuple[str, ...]] = ("affine-lp",)

    def max_queries(self, threat: AffineBalls) -> int:
        return max(self.splits, 1) * (2 * self.steps + 1)

    def start(self, threat: AffineBalls, batch: Batch) -> AffineLpState:
        return self._begin(threat, batch, torch.zeros_like(batch.keys))

    def step(self, threat: AffineBalls, batch: Batch, state: AffineLpState, seen: Seen) -> AffineLpState:
        beta = self.beta(batch, state.split)
        ascent = inward(seen.grad, state.delta, batch.x)
        one = self._moved(threat.one, beta, state.one, ascent, batch.x)
        two = self._moved(threat.two, 1 - beta, state.two, ascent, batch.x)
        turn = per_example(state.moves % 2 == 0, one)
        one, two = torch.where(turn, one, state.one), torch.where(turn, state.two, two)
        moved = replace(state, delta=_boxed(one + two, batch.x), one=one, two=two, moves=state.moves + 1)
        over = state.moves == 2 * self.steps
        return where_rows(over, self._begin(threat, batch, state.split + 1), moved)

    def _begin(self, threat: AffineBalls, batch: Batch, split: Int[Tensor, "B"]) -> AffineLpState:
        beta = self.beta(batch, split)
        one, two = (
            part.sample(batch.x, normal(batch.keys, restart, batch.x)) * per_example(share, batch.x)
            for part, share, restart in ((threat.one, beta, 2 * split + 1), (threat.two, 1 - beta, 2 * split + 2))
        )
        return AffineLpState(_boxed(one + two, batch.x), one, two, torch.zeros_like(split), split)

    def _moved(self, part: Ball, share: PerExample, delta: Inputs, ascent: Inputs, x: Inputs) -> Inputs:
        step = sparse(ascent, PERCENTILE) if part.sparse_steps else part.steepest(ascent)
        return _into(part, share, delta + per_example(2.5 / self.steps * part.r * share, delta) * step, x)


@dataclass(frozen=True)
class AffineRTState(State):
    """A pose, and a perturbation of the image in that pose. `delta` is from the image itself."""

    transform: TransformParams
    loss: PerExample  # at the best pose so far; -inf before any was looked at
    change: Inputs  # of the moved image
    moves: Int[Tensor, "B"]  # at this split, looks at poses included
    split: Int[Tensor, "B"]


@dataclass(frozen=True)
class AffineRTAttack(_Affine, GradientAttack[AffineRT, AffineRTState]):
    """The worst of some random poses within a share of the limits, then projected ascent in the rest of the ball.

    The authors climb from every pose they draw; here the climb is spent on the pose with the highest loss.
    """

    name: ClassVar[str] = "affine-rt"
    source: ClassVar[str] = "Affine spatial attack, Tramèr and Boneh 2019, https://arxiv.org/abs/1904.13000"
    threats: ClassVar[tuple[str, ...]] = ("affine-rt",)

    transforms: Count = 10  # looked at per split

    def max_queries(self, threat: AffineRT) -> int:
        return max(self.splits, 1) * (self.transforms + self.steps + 1)

    def start(self, threat: AffineRT, batch: Batch) -> AffineRTState:
        return self._begin(threat, batch, torch.zeros_like(batch.keys))

    def query(self, threat: AffineRT, batch: Batch, state: AffineRTState) -> Inputs:
        transform = self._asked(threat.rt, batch, state)
        return (threat.rt.apply(batch.x, transform) + state.change).clamp(0, 1)

    def params(self, threat: AffineRT, batch: Batch, state: AffineRTState) -> CandidateParams:
        return self._asked(threat.rt, batch, state).unsqueeze(1)

    def step(self, threat: AffineRT, batch: Batch, state: AffineRTState, seen: Seen) -> AffineRTState:
        transform = self._asked(threat.rt, batch, state)
        better = self._looking(state) & ~(seen.loss <= state.loss)
        looked = replace(
            state,
            transform=torch.where(better[:, None], transform, state.transform),
            loss=torch.where(better, seen.loss, state.loss),
            moves=state.moves + 1,
        )
        moved = threat.rt.apply(batch.x, state.transform)
        share = (1 - threat.rt.share(state.transform)).clamp(min=0).to(moved.dtype)
        ascent = threat.ball.steepest(inward(seen.grad, state.change, moved))
        stride = per_example(2.5 / self.steps * threat.ball.r * share, moved)
        change = _into(threat.ball, share, state.change + stride * ascent, moved)
        climbed = replace(state, change=change, moves=state.moves + 1)
        new = where_rows(self._looking(state), looked, climbed)
        over = state.moves == self.transforms + self.steps
        return where_rows(over, self._begin(threat, batch, state.split + 1), new)

    def _begin(self, threat: AffineRT, batch: Batch, split: Int[Tensor, "B"]) -> AffineRTState:
        still = torch.zeros_like(batch.x)
        unseen = torch.full_like(still.flatten(1)[:, 0], -torch.inf)
        transform = still.new_zeros(len(still), N_PARAMS)
        return AffineRTState(still, transform, unseen, still, torch.zeros_like(split), split)

    def _looking(self, state: AffineRTState) -> Mask:
        return state.moves < self.transforms

    def _asked(self, rt: RT, batch: Batch, state: AffineRTState) -> TransformParams:
        """A fresh pose while it looks about, then the best of them."""
        restart = 1 + state.split * self.transforms + state.moves
        fresh = (2 * uniform(batch.keys, restart, N_PARAMS) - 1) * rt.limits(batch.x)
        fresh = fresh * self.beta(batch, state.split)[:, None]
        return torch.where(self._looking(state)[:, None], fresh, state.transform)


def _into(ball: Ball, share: PerExample, delta: Inputs, x: Inputs) -> Inputs:
    """Into the ball, shrunk to a share of its radius, and the box."""
    return ball.nearest(delta, x, stretch=share.clamp(min=MIN))


def _boxed(delta: Inputs, x: Inputs) -> Inputs:
    return (x + delta).clamp(0, 1) - x
