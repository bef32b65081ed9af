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
    """The settings that both forms share: how the budget is split."""

    steps: Count = 100  # steps at one split, each 2.5 / steps of the radius (Madry's rule)
    loss: LossName = "margin"
    splits: Annotated[int, Bounds(0)] = 0  # 0 samples one split; n tries 0, 1 / (n - 1), ..., 1 one after the other

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.splits == 1:
            raise UserError(
                f"{self.name} cannot take splits=1: it must be 0 (a random split) or at least 2, such as 11"
            )

    @property
    def objective(self) -> Loss:
        """The loss to maximise."""
        return UNTARGETED[self.loss]

    def beta(self, batch: Batch, split: Int[Tensor, "B"]) -> PerExample:
        """The share of the budget for the first part, at the split of this number."""
        if not self.splits:
            return uniform(batch.keys, 0, 1).squeeze(1)
        return (split / (self.splits - 1)).clamp(max=1).to(batch.x.dtype)

    def _moved(self, part: Ball, share: PerExample, delta: Inputs, ascent: Inputs, x: Inputs) -> Inputs:
        """A step in this share of a ball; under l_1 that of SLIDE."""
        step = sparse(ascent, PERCENTILE) if part.sparse_steps else part.steepest(ascent)
        return _into(part, share, delta + per_example(2.5 / self.steps * part.r * share, delta) * step, x)


@dataclass(frozen=True)
class AffineLpState(State):
    """Two perturbations. Their sum, cut by the box, is queried."""

    one: Inputs
    two: Inputs
    moves: Int[Tensor, "B"]  # steps at this split
    split: Int[Tensor, "B"]  # number of the split


@dataclass(frozen=True)
class AffineLp(_Affine, GradientAttack[AffineBalls, AffineLpState]):
    """Two perturbations inside shares of two balls, moved in turn by the gradient at their sum.

    As in the authors' code, both take `steps` steps, so a split takes twice as many, and beta is uniform in each
    restart. An l_1 ball uses SLIDE's step. Steps shrink with the share of the radius; the authors' do not under l_1.
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


@dataclass(frozen=True)
class AffineRTState(State):
    """A transform, and a perturbation of the transformed image. `delta` is the change from the original image."""

    transform: TransformParams
    loss: PerExample  # at the best transform so far; -inf before the first query
    change: Inputs  # of the transformed image
    moves: Int[Tensor, "B"]  # queries at this split, those of transforms included
    split: Int[Tensor, "B"]


@dataclass(frozen=True)
class AffineRTAttack(_Affine, GradientAttack[AffineRT, AffineRTState]):
    """The worst of some random transforms within a share of the limits, then PGD in the rest of the ball.

    The authors run PGD from every random transform; here it runs from the transform with the highest loss.
    """

    name: ClassVar[str] = "affine-rt"
    source: ClassVar[str] = "Affine spatial attack, Tramèr and Boneh 2019, https://arxiv.org/abs/1904.13000"
    threats: ClassVar[tuple[str, ...]] = ("affine-rt",)

    transforms: Count = 10  # queried per split

    def max_queries(self, threat: AffineRT) -> int:
        return max(self.splits, 1) * (self.transforms + self.steps + 1)

    def start(self, threat: AffineRT, batch: Batch) -> AffineRTState:
        return self._begin(threat, batch, torch.zeros_like(batch.keys))

    def query(self, threat: AffineRT, batch: Batch, state: AffineRTState) -> Inputs:
        transform = self._transform(threat.rt, batch, state)
        return (threat.rt.apply(batch.x, transform) + state.change).clamp(0, 1)

    def params(self, threat: AffineRT, batch: Batch, state: AffineRTState) -> CandidateParams:
        return self._transform(threat.rt, batch, state).unsqueeze(1)

    def step(self, threat: AffineRT, batch: Batch, state: AffineRTState, seen: Seen) -> AffineRTState:
        transform = self._transform(threat.rt, batch, state)
        better = self._choosing(state) & ~(seen.loss <= state.loss)
        chosen = replace(
            state,
            transform=torch.where(better[:, None], transform, state.transform),
            loss=torch.where(better, seen.loss, state.loss),
            moves=state.moves + 1,
        )
        moved = threat.rt.apply(batch.x, state.transform)
        share = (1 - threat.rt.share(state.transform)).clamp(min=0).to(moved.dtype)
        ascent = inward(seen.grad, state.change, moved)
        change = self._moved(threat.ball, share, state.change, ascent, moved)
        stepped = replace(state, change=change, moves=state.moves + 1)
        new = where_rows(self._choosing(state), chosen, stepped)
        over = state.moves == self.transforms + self.steps
        return where_rows(over, self._begin(threat, batch, state.split + 1), new)

    def _begin(self, threat: AffineRT, batch: Batch, split: Int[Tensor, "B"]) -> AffineRTState:
        still = torch.zeros_like(batch.x)
        unseen = torch.full_like(still.flatten(1)[:, 0], -torch.inf)
        transform = still.new_zeros(len(still), N_PARAMS)
        return AffineRTState(still, transform, unseen, still, torch.zeros_like(split), split)

    def _choosing(self, state: AffineRTState) -> Mask:
        return state.moves < self.transforms

    def _transform(self, rt: RT, batch: Batch, state: AffineRTState) -> TransformParams:
        """A new random transform in the first phase, then the best one."""
        restart = 1 + state.split * self.transforms + state.moves
        fresh = (2 * uniform(batch.keys, restart, N_PARAMS) - 1) * rt.limits(batch.x)
        fresh = fresh * self.beta(batch, state.split)[:, None]
        return torch.where(self._choosing(state)[:, None], fresh, state.transform)


def _into(ball: Ball, share: PerExample, delta: Inputs, x: Inputs) -> Inputs:
    """The nearest delta in the box and in the ball at a share of its radius."""
    return ball.nearest(delta, x, stretch=share.clamp(min=MIN))


def _boxed(delta: Inputs, x: Inputs) -> Inputs:
    return (x + delta).clamp(0, 1) - x
