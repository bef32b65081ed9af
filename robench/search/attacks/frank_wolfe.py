from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.losses import UNTARGETED, Loss, LossName
from ...problem.noise import normal
from ...problem.shapes import per_example
from ...problem.threats import Ball
from ...settings import Count
from ..attack import Batch, GradientAttack, Seen, State


@dataclass(frozen=True)
class FrankWolfeState(State):
    """The current point, and the number of steps."""

    taken: Int[Tensor, "B"]  # steps so far


@dataclass(frozen=True)
class FrankWolfe(GradientAttack[Ball, FrankWolfeState]):
    """Conditional gradients: each step goes 2 / (t + 2) of the way to the member best for the linearised loss.

    Frank and Wolfe 1956; for l_1 attacks Kang et al. 2019, https://arxiv.org/abs/1908.08016. In ball and box
    together, that member uses the radius for the largest gradients, each pixel up to the edge of the box.
    """

    name: ClassVar[str] = "frank-wolfe"
    source: ClassVar[str] = "Frank-Wolfe for l1, Kang et al. 2019, https://arxiv.org/abs/1908.08016"
    threats: ClassVar[tuple[str, ...]] = ("l1",)

    steps: Count = 100
    loss: LossName = "margin"
    random_start: bool = True

    @property
    def objective(self) -> Loss:
        return UNTARGETED[self.loss]

    def start(self, threat: Ball, batch: Batch) -> FrankWolfeState:
        delta = torch.zeros_like(batch.x)
        if self.random_start:
            delta = threat.sample(batch.x, normal(batch.keys, restart=0, like=batch.x))
        return FrankWolfeState(delta, taken=torch.zeros_like(batch.keys))

    def step(self, threat: Ball, batch: Batch, state: FrankWolfeState, seen: Seen) -> FrankWolfeState:
        vertex = threat.vertex(seen.grad, batch.x)
        share = per_example(2 / (state.taken + 2), vertex)
        # A point between two members is a member, up to rounding, which `project` repairs.
        moved = threat.project(state.delta + share * (vertex - state.delta), batch.x)
        return FrankWolfeState(moved, taken=state.taken + 1)
