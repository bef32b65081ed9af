from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ...problem.losses import Loss
from ...problem.shapes import Inputs, per_example
from ...problem.threats import Ball
from ...settings import Count, NonNegative, Targets
from ..attack import Batch, GradientAttack, Seen, where_rows
from .carlini_wagner import HingeWeight, RoundState, first_round, hinge, hinge_targeted, next_round, noted


@dataclass(frozen=True)
class EADState(RoundState):
    """The memory of FISTA in this round. `delta` is the paper's y - x_0, where the gradient is taken."""

    shrunk: Inputs  # the paper's x - x_0, after the last shrinkage


@dataclass(frozen=True)
class EAD(GradientAttack[Ball, EADState]):
    """Elastic-net attack: FISTA on the loss of Carlini and Wagner plus beta times the l_1 norm.

    Chen et al. 2018, algorithm 1, https://arxiv.org/abs/1709.04114, with decision rule l_1 and confidence 0. Numbers
    are those of cleverhans 3.0.1 as Tramèr and Boneh 2019 ran it; as in both, beta is subtracted as it is, not times
    the step size. There is one query per step, at the extrapolated point inside the box, and queried points are the
    finds; the authors query the shrunk point as well, which doubles the cost and finds no smaller l_1.
    """

    name: ClassVar[str] = "ead"
    source: ClassVar[str] = "Elastic-net attack, Chen et al. 2018, https://arxiv.org/abs/1709.04114"
    threats: ClassVar[tuple[str, ...]] = ("l1",)
    precise: ClassVar[bool] = True
    minimises: ClassVar[bool] = True

    steps: Count = 1000  # steps per round
    targets: Targets = 0
    rounds: Count = 9  # values of c
    step_size: NonNegative = 1e-2  # of the first step; falls to 0 as the square root of the steps left
    c: HingeWeight = 1e-3  # of the first round, in squared distances per logit
    beta: NonNegative = 1e-2  # subtracted from every pixel's change in every step

    @property
    def objective(self) -> Loss:
        return hinge_targeted if self.targets else hinge

    def max_queries(self, threat: Ball) -> int:
        return self.rounds * (self.steps + 1)  # every round first queries the image

    def start(self, threat: Ball, batch: Batch) -> EADState:
        return EADState(**first_round(batch, self.c), shrunk=torch.zeros_like(batch.x))

    def step(self, threat: Ball, batch: Batch, state: EADState, seen: Seen) -> EADState:
        state = noted(threat, batch, state, seen)
        over = state.moves == self.steps
        return where_rows(over, next_round(state, self.start(threat, batch)), self._moved(batch, state, seen))

    def _moved(self, batch: Batch, state: EADState, seen: Seen) -> EADState:
        grad = 2 * state.delta - per_example(state.c, seen.grad) * seen.grad
        t = state.moves.to(grad.dtype)
        step_size = self.step_size * (1 - t / self.steps).clamp(min=0).sqrt()
        shrunk = boxed(shrink(state.delta - per_example(step_size, grad) * grad, self.beta), batch.x)
        delta = shrunk + per_example(t / (t + 3), grad) * (shrunk - state.shrunk)
        return replace(state, delta=boxed(delta, batch.x), moves=state.moves + 1, shrunk=shrunk)


def shrink(delta: Inputs, beta: float) -> Inputs:
    """Every component moved towards 0 by beta, but not past 0."""
    return delta.sign() * (delta.abs() - beta).clamp(min=0)


def boxed(delta: Inputs, x: Inputs) -> Inputs:
    """The delta cut by the box."""
    return (x + delta).clamp(0, 1) - x
