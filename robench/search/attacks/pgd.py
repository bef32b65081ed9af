from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.losses import TARGETED, UNTARGETED, Loss, LossName
from ...problem.noise import normal
from ...problem.shapes import Inputs, per_example
from ...problem.threats import Ball, inward
from ...settings import Count, NonNegative, Schedule, Targets
from ..attack import Batch, GradientAttack, Seen, State
from .fading import fading


@dataclass(frozen=True)
class FadingState(State):
    """The current point, and the number of steps: for steps that grow shorter."""

    moves: Int[Tensor, "B"]


@dataclass(frozen=True)
class PGD(GradientAttack[Ball, State]):
    """Projected gradient ascent, Madry et al. 2018. https://arxiv.org/abs/1706.06083

    Steps follow the steepest direction of the threat model: signs for l_inf, the unit gradient for l_2, the one
    largest coordinate for l_1. As in Tramèr and Boneh 2019, no step is wasted on pixels that the box stops. With the
    probability margin and the cosine schedule it is the attack of Xie et al. 2024, https://arxiv.org/abs/2411.15210.
    """

    name: ClassVar[str] = "pgd"
    source: ClassVar[str] = "Projected gradient descent, Madry et al. 2018, https://arxiv.org/abs/1706.06083"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    steps: Count = 100
    step_size: NonNegative | None = None  # in radii, of the first step; None is 2.5 / steps (Madry), or 2 with cosine
    loss: LossName = "margin"
    random_start: bool = True
    targets: Targets = 0  # the number of likeliest wrong classes to aim at, one search each; 0 aims at none
    schedule: Schedule = "constant"

    @property
    def objective(self) -> Loss:
        return (TARGETED if self.targets else UNTARGETED)[self.loss]

    @property
    def stride(self) -> float:
        """The length of the first step, in radii."""
        if self.step_size is not None:
            return self.step_size
        return 2.0 if self.schedule == "cosine" else 2.5 / self.steps

    def start(self, threat: Ball, batch: Batch) -> State:
        delta = torch.zeros_like(batch.x)
        if self.random_start:
            delta = threat.sample(batch.x, normal(batch.keys, restart=0, like=batch.x))
        return State(delta) if self.schedule == "constant" else FadingState(delta, torch.zeros_like(batch.keys))

    def step(self, threat: Ball, batch: Batch, state: State, seen: Seen) -> State:
        ascent = self.direction(threat, inward(seen.grad, state.delta, batch.x))
        if not isinstance(state, FadingState):
            return State(threat.project(state.delta + self.stride * threat.r * ascent, batch.x))
        stride = per_example(fading(state.moves / self.steps, self.stride, 0.0), ascent)
        return FadingState(threat.project(state.delta + stride * threat.r * ascent, batch.x), state.moves + 1)

    def direction(self, threat: Ball, grad: Inputs) -> Inputs:
        """The direction of a step: the steepest."""
        return threat.steepest(grad)
