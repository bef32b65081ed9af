"""Rotations and translations, tried one by one: there are three numbers to choose, and gradients mislead."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import UserError
from ...problem.noise import uniform
from ...problem.shapes import Inputs
from ...problem.threats import RT
from ...problem.threats.base import WITNESS
from ..attack import Batch, Candidates, LabelAttack, State, Witnesses

Poses = Float[Tensor, "N 3"]  # tx and ty in pixels, the angle in degrees
MOST_POSES = 1_000_000  # kept as one table


@dataclass(frozen=True)
class PoseState(State):
    """How many passes a lane has made."""

    taken: Int[Tensor, "B"]


@dataclass(frozen=True)
class Grid(LabelAttack[RT, PoseState]):
    """Every pose of a grid, ends included: Engstrom et al. 2019, https://arxiv.org/abs/1712.02779

    The farthest poses first, so that most examples fall early; an example ends at its first find, or after all.
    """

    name: ClassVar[str] = "grid"
    source: ClassVar[str] = "Grid of rotations and translations, Engstrom et al. 2019, https://arxiv.org/abs/1712.02779"
    threats: ClassVar[tuple[str, ...]] = ("rt",)

    steps: int = 31  # passes over which the grid is spread
    targets: int = 0
    translations: int = 5  # along each axis
    rotations: int = 31

    def __post_init__(self) -> None:
        _refuse_targets(self.name, self.targets)
        for name, value in (("translations", self.translations), ("rotations", self.rotations)):
            if value < 1:
                raise UserError(f"grid cannot take {name}={value}: it needs at least one")
        if (poses := self.translations**2 * self.rotations) > MOST_POSES:
            raise UserError(f"a grid of {poses:,} poses is too fine; leave it at {MOST_POSES:,} or fewer")

    def visits(self, threat: RT) -> int:
        return -(-(self.translations**2) * self.rotations // self.width)

    @property
    def width(self) -> int:
        return -(-(self.translations**2) * self.rotations // self.steps)

    def start(self, threat: RT, batch: Batch) -> PoseState:
        return PoseState(torch.zeros_like(batch.x), torch.zeros_like(batch.keys))

    def query(self, threat: RT, batch: Batch, state: PoseState) -> Candidates:
        return posed(threat, batch.x, self.witness(threat, batch, state))

    def witness(self, threat: RT, batch: Batch, state: PoseState) -> Witnesses:
        poses = _grid(self.translations, self.rotations, self.width, batch.x.device)
        return poses[state.taken.clamp(max=len(poses) - 1)] * threat.limits(batch.x)

    def step(self, threat: RT, batch: Batch, state: PoseState, labels: Int[Tensor, "L W"]) -> PoseState:
        return PoseState(state.delta, state.taken + 1)


@dataclass(frozen=True)
class RandomPoses(LabelAttack[RT, PoseState]):
    """Poses drawn uniformly from the whole range, each example its own: the worst of k of Engstrom et al. 2019."""

    name: ClassVar[str] = "random-poses"
    source: ClassVar[str] = "Worst of k random poses, Engstrom et al. 2019, https://arxiv.org/abs/1712.02779"
    threats: ClassVar[tuple[str, ...]] = ("rt",)

    steps: int = 1  # passes
    targets: int = 0
    poses: int = 10  # in each pass

    def __post_init__(self) -> None:
        _refuse_targets(self.name, self.targets)
        if self.poses < 1:
            raise UserError(f"random-poses cannot take poses={self.poses}: it needs at least one")

    def visits(self, threat: RT) -> int:
        return self.steps

    @property
    def width(self) -> int:
        return self.poses

    def start(self, threat: RT, batch: Batch) -> PoseState:
        return PoseState(torch.zeros_like(batch.x), torch.zeros_like(batch.keys))

    def query(self, threat: RT, batch: Batch, state: PoseState) -> Candidates:
        return posed(threat, batch.x, self.witness(threat, batch, state))

    def witness(self, threat: RT, batch: Batch, state: PoseState) -> Witnesses:
        return random_poses(threat, batch, state.taken, self.poses)

    def step(self, threat: RT, batch: Batch, state: PoseState, labels: Int[Tensor, "L W"]) -> PoseState:
        return PoseState(state.delta, state.taken + 1)


def posed(threat: RT, x: Inputs, witness: Witnesses) -> Candidates:
    """Every image in each of its poses."""
    lanes, width, _ = witness.shape
    return threat.apply(x.repeat_interleave(width, dim=0), witness.flatten(0, 1)).view(lanes, width, *x.shape[1:])


def random_poses(threat: RT, batch: Batch, draw: Int[Tensor, "L"], count: int) -> Witnesses:
    """Poses of each lane, uniform in the limits."""
    u = uniform(batch.keys, draw, WITNESS * count).view(-1, count, WITNESS)
    return (2 * u - 1) * threat.limits(batch.x)


def _refuse_targets(name: str, targets: int) -> None:
    if targets:
        raise UserError(f"{name} aims at no class; leave targets at 0")


@lru_cache
def _grid(translations: int, rotations: int, width: int, device: torch.device) -> Float[Tensor, "P W 3"]:
    """All poses as shares of the limits, the farthest first, in passes of `width`; repeats fill up the last."""
    along, turned = _evenly(translations), _evenly(rotations)
    poses = torch.cartesian_prod(along, along, turned)
    far = poses.square().sum(dim=1).argsort(descending=True, stable=True)
    missing = -len(poses) % width
    poses = torch.cat([poses[far], poses[far[-1:]].expand(missing, WITNESS)])
    return poses.view(-1, width, WITNESS).to(device)


def _evenly(count: int) -> Float[Tensor, "N"]:
    return torch.linspace(-1, 1, count) if count > 1 else torch.zeros(1)
