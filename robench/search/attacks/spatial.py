"""Rotations and translations, tried one by one: only three parameters, and their gradients mislead."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import settings
from ...errors import UserError
from ...problem.noise import uniform
from ...problem.shapes import Inputs
from ...problem.threats import RT, RTL2, Rebuilt
from ...problem.threats.base import N_PARAMS
from ...settings import Count
from ..attack import Batch, CandidateParams, Candidates, LabelAttack, State

Transforms = Float[Tensor, "N 3"]  # tx and ty in pixels, the angle in degrees
Spatial = RT | RTL2
MAX_TRANSFORMS = 1_000_000  # held in one table


@dataclass(frozen=True)
class TransformState(State):
    """The number of passes of each slot."""

    taken: Int[Tensor, "B"]


@dataclass(frozen=True)
class Grid(LabelAttack[Spatial, TransformState]):
    """Every transform of a grid, ends included: Engstrom et al. 2019, https://arxiv.org/abs/1712.02779

    The farthest transforms come first, as they break most examples early. An example ends at its first find.
    """

    name: ClassVar[str] = "grid"
    source: ClassVar[str] = "Grid of rotations and translations, Engstrom et al. 2019, https://arxiv.org/abs/1712.02779"
    threats: ClassVar[tuple[str, ...]] = ("rt", "rt-l2")

    steps: Count = 31  # passes over which the grid is spread
    translations: Count = 5  # along each axis
    rotations: Count = 31

    def __post_init__(self) -> None:
        settings.check(self)
        if (transforms := self.translations**2 * self.rotations) > MAX_TRANSFORMS:
            raise UserError(f"a grid of {transforms:,} transforms is too fine; take {MAX_TRANSFORMS:,} or fewer")
        super().__post_init__()

    def max_queries(self, threat: Spatial) -> int:
        return -(-(self.translations**2) * self.rotations // self.queries_per_step)

    @property
    def queries_per_step(self) -> int:
        return -(-(self.translations**2) * self.rotations // self.steps)

    def start(self, threat: Spatial, batch: Batch) -> TransformState:
        return TransformState(torch.zeros_like(batch.x), torch.zeros_like(batch.keys))

    def query(self, threat: Spatial, batch: Batch, state: TransformState) -> Candidates:
        return transformed(threat, batch.x, self.params(threat, batch, state))

    def params(self, threat: Spatial, batch: Batch, state: TransformState) -> CandidateParams:
        transforms = _grid(self.translations, self.rotations, self.queries_per_step, batch.x.device)
        return transforms[state.taken.clamp(max=len(transforms) - 1)] * threat.limits(batch.x)

    def step(self, threat: Spatial, batch: Batch, state: TransformState, labels: Int[Tensor, "L W"]) -> TransformState:
        return TransformState(state.delta, state.taken + 1)


@dataclass(frozen=True)
class RandomTransforms(LabelAttack[Spatial, TransformState]):
    """Random transforms, uniform in the limits, different for each example: worst of k of Engstrom et al. 2019."""

    name: ClassVar[str] = "random-transforms"
    source: ClassVar[str] = "Worst of k random transforms, Engstrom et al. 2019, https://arxiv.org/abs/1712.02779"
    threats: ClassVar[tuple[str, ...]] = ("rt", "rt-l2")

    steps: Count = 1  # passes
    transforms: Count = 10  # in each pass

    def max_queries(self, threat: Spatial) -> int:
        return self.steps

    @property
    def queries_per_step(self) -> int:
        return self.transforms

    def start(self, threat: Spatial, batch: Batch) -> TransformState:
        return TransformState(torch.zeros_like(batch.x), torch.zeros_like(batch.keys))

    def query(self, threat: Spatial, batch: Batch, state: TransformState) -> Candidates:
        return transformed(threat, batch.x, self.params(threat, batch, state))

    def params(self, threat: Spatial, batch: Batch, state: TransformState) -> CandidateParams:
        return random_transforms(threat, batch, state.taken, self.transforms)

    def step(self, threat: Spatial, batch: Batch, state: TransformState, labels: Int[Tensor, "L W"]) -> TransformState:
        return TransformState(state.delta, state.taken + 1)


def transformed(threat: Rebuilt, x: Inputs, params: CandidateParams) -> Candidates:
    """Every image after each of its transforms."""
    slots, count, _ = params.shape
    return threat.apply(x.repeat_interleave(count, dim=0), params.flatten(0, 1)).view(slots, count, *x.shape[1:])


def random_transforms(threat: Spatial, batch: Batch, restart: Int[Tensor, "L"], count: int) -> CandidateParams:
    """Random transforms of each slot, uniform in the limits."""
    u = uniform(batch.keys, restart, N_PARAMS * count).view(-1, count, N_PARAMS)
    return (2 * u - 1) * threat.limits(batch.x)


@lru_cache
def _grid(translations: int, rotations: int, width: int, device: torch.device) -> Float[Tensor, "P W 3"]:
    """All transforms as shares of the limits, the farthest first, in passes of `width`; repeats fill up the last."""
    along, turned = _evenly(translations), _evenly(rotations)
    transforms = torch.cartesian_prod(along, along, turned)
    far = transforms.square().sum(dim=1).argsort(descending=True, stable=True)
    missing = -len(transforms) % width
    transforms = torch.cat([transforms[far], transforms[far[-1:]].expand(missing, N_PARAMS)])
    return transforms.view(-1, width, N_PARAMS).to(device)


def _evenly(count: int) -> Float[Tensor, "N"]:
    return torch.linspace(-1, 1, count) if count > 1 else torch.zeros(1)
