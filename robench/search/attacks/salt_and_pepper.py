from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...problem.noise import uniform
from ...problem.shapes import PerExample, per_example
from ...problem.threats import Ball
from ...settings import Count
from ..attack import Batch, Candidates, LabelAttack, State
from .starts import nearest, pick, sizes

BEYOND = 1.2  # times the density of the nearest find: size and density are only loosely related


@dataclass(frozen=True)
class SaltAndPepperState(State):
    """The nearest point that fooled, as delta; 0 before the first."""

    size: PerExample  # of delta; infinite before the first find
    density: PerExample  # share of the pixels: the highest density to query
    taken: Int[Tensor, "B"]  # answers so far


@dataclass(frozen=True)
class SaltAndPepper(LabelAttack[Ball, SaltAndPepperState]):
    """Random pixels turned white or black, fewer and fewer of them.

    As in Foolbox, all channels of a pixel turn together, and the nearest find bounds the next densities. Distances are
    those of the threat model, not l_2.
    """

    name: ClassVar[str] = "salt-and-pepper"
    source: ClassVar[str] = "Salt and pepper noise, Rauber et al. 2017 (Foolbox), https://arxiv.org/abs/1707.04131"
    threats: ClassVar[tuple[str, ...]] = ("l1", "l0")
    minimises: ClassVar[bool] = True
    comes_from_outside: ClassVar[bool] = True

    steps: Count = 125  # noise patterns, each queried at `queries_per_step` densities
    queries_per_step: Count = 8  # images that each example queries at once

    def max_queries(self, threat: Ball) -> int:
        return self.steps

    def start(self, threat: Ball, batch: Batch) -> SaltAndPepperState:
        zero = torch.zeros_like(batch.x.flatten(1)[:, 0])
        none = torch.zeros_like(batch.keys)
        return SaltAndPepperState(torch.zeros_like(batch.x), size=zero + torch.inf, density=zero + 1, taken=none)

    def query(self, threat: Ball, batch: Batch, state: SaltAndPepperState) -> Candidates:
        h, w = batch.x.shape[2:]
        order, colour = uniform(batch.keys, state.taken, 2 * h * w).view(-1, 2, 1, 1, h, w).unbind(1)
        turned = order < self._densities(state)[..., None, None, None]
        return torch.where(turned, (colour > 0.5).to(batch.x.dtype), batch.x[:, None])

    def step(
        self, threat: Ball, batch: Batch, state: SaltAndPepperState, labels: Int[Tensor, "L W"]
    ) -> SaltAndPepperState:
        delta = self.query(threat, batch, state) - batch.x[:, None]
        size, which = nearest(labels != batch.y[:, None], sizes(threat, delta))
        nearer = size < state.size
        density = self._densities(state).gather(1, which[:, None]).squeeze(1)
        return SaltAndPepperState(
            delta=torch.where(per_example(nearer, delta[:, 0]), pick(delta, which), state.delta),
            size=torch.where(nearer, size, state.size),
            density=torch.where(nearer, (BEYOND * density).clamp(max=1), state.density),
            taken=state.taken + 1,
        )

    def _densities(self, state: SaltAndPepperState) -> Float[Tensor, "L W"]:
        """Shares of the pixels to turn, in even steps up to the highest."""
        steps = torch.arange(1, self.queries_per_step + 1, device=state.density.device) / self.queries_per_step
        return state.density[:, None] * steps
