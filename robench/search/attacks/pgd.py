from dataclasses import dataclass
from typing import ClassVar

import torch

from ...problem.losses import TARGETED, UNTARGETED, Loss, LossName
from ...problem.noise import normal
from ...problem.threats import Ball, inward
from ...settings import Count, NonNegative, Targets
from ..attack import Batch, GradientAttack, Seen, State


@dataclass(frozen=True)
class PGD(GradientAttack[Ball, State]):
    """Projected gradient ascent, Madry et al. 2018. https://arxiv.org/abs/1706.06083

    Steps follow the steepest direction of the threat model: signs for l_inf, the unit gradient for l_2, the one
    largest coordinate for l_1. As in Tramèr and Boneh 2019, no step is wasted on pixels that the box stops.
    """

    name: ClassVar[str] = "pgd"
    source: ClassVar[str] = "Projected gradient descent, Madry et al. 2018, https://arxiv.org/abs/1706.06083"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    steps: Count = 100
    step_size: NonNegative | None = None  # in radii; None is 2.5 / steps, Madry's rule
    loss: LossName = "margin"
    random_start: bool = True
    targets: Targets = 0  # the number of likeliest wrong classes to aim at, one search each; 0 aims at none

    @property
    def objective(self) -> Loss:
        return (TARGETED if self.targets else UNTARGETED)[self.loss]

    @property
    def stride(self) -> float:
        """The length of a step, in radii."""
        return 2.5 / self.steps if self.step_size is None else self.step_size

    def start(self, threat: Ball, batch: Batch) -> State:
        if not self.random_start:
            return State(torch.zeros_like(batch.x))
        return State(threat.sample(batch.x, normal(batch.keys, restart=0, like=batch.x)))

    def step(self, threat: Ball, batch: Batch, state: State, seen: Seen) -> State:
        ascent = threat.steepest(inward(seen.grad, state.delta, batch.x))
        return State(threat.project(state.delta + self.stride * threat.r * ascent, batch.x))
