from dataclasses import dataclass
from math import ceil
from typing import Annotated, ClassVar

import torch

from ...problem.losses import UNTARGETED, Loss, LossName
from ...problem.noise import normal
from ...problem.shapes import Inputs, per_example
from ...problem.threats import Ball, inward
from ...settings import Bounds, Count, NonNegative
from ..attack import Batch, GradientAttack, Seen, State


@dataclass(frozen=True)
class SLIDE(GradientAttack[Ball, State]):
    """Sparse l_1 descent, Tramèr and Boneh 2019, algorithm 1. https://arxiv.org/abs/1904.13000

    The coordinates of the largest gradients share each step equally: more of them than the single coordinate of
    steepest descent, and far fewer than all.
    """

    name: ClassVar[str] = "slide"
    source: ClassVar[str] = "Sparse l1 descent, Tramèr and Boneh 2019, https://arxiv.org/abs/1904.13000"
    threats: ClassVar[tuple[str, ...]] = ("l1",)

    steps: Count = 100
    step_size: NonNegative = 0.05  # in radii; 0.5 at radius 10, as the authors evaluate
    percentile: Annotated[float, Bounds(0, below=100)] = 99.0  # of the absolute gradient: the coordinates above it move
    loss: LossName = "margin"  # as in the authors' code; the paper leaves it open
    random_start: bool = True  # as in the authors' code; algorithm 1 starts at the image

    @property
    def objective(self) -> Loss:
        return UNTARGETED[self.loss]

    def start(self, threat: Ball, batch: Batch) -> State:
        if not self.random_start:
            return State(torch.zeros_like(batch.x))
        return State(threat.sample(batch.x, normal(batch.keys, restart=0, like=batch.x)))

    def step(self, threat: Ball, batch: Batch, state: State, seen: Seen) -> State:
        ascent = sparse(inward(seen.grad, state.delta, batch.x), self.percentile)
        return State(threat.project(state.delta + self.step_size * threat.r * ascent, batch.x))


def sparse(grad: Inputs, percentile: float) -> Inputs:
    """The signs of the ceil((1 - q) d) largest components, scaled to absolute sum 1.

    Ties are cut to exactly this number, and components of 0 take no share of the step (P-04).
    """
    flat = grad.flatten(1)
    moving = ceil(flat.shape[1] * (1 - percentile / 100) - 1e-9)
    top = flat.abs().topk(max(moving, 1), dim=1).indices
    signs = torch.zeros_like(flat).scatter_(1, top, flat.gather(1, top).sign()).view_as(grad)
    return signs / per_example(signs.flatten(1).abs().sum(dim=1).clamp(min=1), grad)
