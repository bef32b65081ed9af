from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...problem.losses import TARGETED, UNTARGETED, Loss, LossName
from ...problem.noise import normal
from ...problem.shapes import Inputs, PerExample, per_example
from ...problem.threats import Ball
from ...settings import Count, Targets
from ..attack import Batch, GradientAttack, Seen
from .apgd_l1 import SparseAscent, SparseState, Stages, large_radius_stages
from .apgd_state import APGDState, next_origin, on_device, updated

MOMENTUM = 0.75  # alpha of algorithm 1
RISING = 0.75  # rho: the share of rising steps below which the step size is halved


@dataclass(frozen=True)
class CheckpointState(APGDState):
    """What happened since the last checkpoint, which decides whether the step size is halved."""

    loss: PerExample  # at the last point
    rises: Int[Tensor, "B"]
    checked_loss: PerExample  # top_loss at the checkpoint
    halved: Bool[Tensor, "B"]  # at the checkpoint


@dataclass(frozen=True)
class APGD(GradientAttack[Ball, APGDState]):
    """Auto-PGD: ascent with momentum that halves its step size and returns to its best point when it stalls.

    Croce and Hein 2020, algorithm 1, https://arxiv.org/abs/2003.01690; for sparse steps (l_1) see `apgd_l1`. Counts
    and constants are those of the authors' AutoAttack.
    """

    name: ClassVar[str] = "apgd"
    source: ClassVar[str] = "Auto-PGD, Croce and Hein 2020 and 2021, https://arxiv.org/abs/2003.01690"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    steps: Count = 100
    targets: Targets = 0
    loss: LossName = "cross-entropy"
    staged: bool = True  # l_1 only: the large-radius schedule

    @property
    def objective(self) -> Loss:
        return (TARGETED if self.targets else UNTARGETED)[self.loss]

    def max_queries(self, threat: Ball) -> int:
        return self.steps + len(self.stages(threat))  # every stage first queries the point where it starts

    def stages(self, threat: Ball) -> Stages:
        """Steps and radius (in radii of the threat) of every stage."""
        return large_radius_stages(self.steps) if self.staged and threat.sparse_steps else ((self.steps, 1.0),)

    def start(self, threat: Ball, batch: Batch) -> APGDState:
        if threat.sparse_steps:
            return SparseAscent(self.stages(threat)).start(threat, batch)
        noise = normal(batch.keys, restart=0, like=batch.x)
        outward = torch.erf(noise * 0.5**0.5) if threat.separable else noise
        outward = outward / per_example(threat.size(outward), outward)  # on the sphere, as in the authors' code
        return self.start_at(threat, threat.project(threat.r * outward, batch.x))

    def start_at(self, threat: Ball, delta: Inputs) -> APGDState:
        """The state of rows that start at this point."""
        zero = torch.zeros_like(delta.flatten(1)[:, 0])
        none = torch.zeros_like(zero, dtype=torch.long)
        if threat.sparse_steps:
            return SparseAscent(self.stages(threat)).start_at(delta, none)
        return CheckpointState(
            delta=delta,
            seen=none,
            previous=delta,
            top=delta,
            top_grad=torch.zeros_like(delta),
            top_loss=zero - torch.inf,
            step_size=zero + 2,
            loss=zero,
            rises=none,
            checked_loss=zero,
            halved=torch.ones_like(none, dtype=torch.bool),
        )

    def step(self, threat: Ball, batch: Batch, state: APGDState, seen: Seen) -> APGDState:
        if isinstance(state, SparseState):
            return SparseAscent(self.stages(threat)).step(threat, batch, state, seen)
        assert isinstance(state, CheckpointState)
        return self._step(threat, batch, _counted(state, seen), seen)

    def _step(self, threat: Ball, batch: Batch, state: CheckpointState, seen: Seen) -> CheckpointState:
        window = on_device(windows(self.steps), torch.long, state.seen.device)[(state.seen - 1).clamp(max=self.steps)]
        at_checkpoint = window > 0
        stalled = (state.rises <= RISING * window) | (~state.halved & (state.checked_loss >= state.top_loss))
        halve = at_checkpoint & stalled
        here, grad = next_origin(state, seen, halve)
        step_size = torch.where(halve, state.step_size / 2, state.step_size)

        plain = threat.project(here + threat.r * per_example(step_size, grad) * threat.steepest(grad), batch.x)
        weight = per_example(torch.where(state.seen == 1, 1.0, MOMENTUM), grad)
        delta = threat.project(here + weight * (plain - here) + (1 - weight) * (here - state.previous), batch.x)
        return replace(
            state,
            delta=delta,
            previous=here,
            step_size=step_size,
            halved=torch.where(at_checkpoint, stalled, state.halved),
            checked_loss=torch.where(at_checkpoint, state.top_loss, state.checked_loss),
            rises=torch.where(at_checkpoint, 0, state.rises),
        )


def _counted(state: CheckpointState, seen: Seen) -> CheckpointState:
    """The state after the model's answer: the best point, and how often the loss rose."""
    first = state.seen == 0
    return replace(
        updated(state, seen),
        rises=torch.where(first, 0, state.rises + (seen.loss > state.loss)),
        checked_loss=torch.where(first, seen.loss, state.checked_loss),
        loss=torch.where(first, 0, seen.loss),  # the authors compare the first step with 0
    )


@lru_cache
def windows(steps: int) -> tuple[int, ...]:
    """Entry t is the length of the window that the checkpoint after t steps closes; 0 if there is no checkpoint."""
    shrink, shortest = max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
    table, t, window = [0] * (steps + 1), 0, max(int(0.22 * steps), 1)
    while (t := t + window) <= steps:
        table[t] = window
        window = max(window - shrink, shortest)
    return tuple(table)
