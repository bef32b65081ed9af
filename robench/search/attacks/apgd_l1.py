"""Auto-PGD under l_1: sparse steps, the exact projection onto ball and box, and a radius that shrinks in stages.

Croce and Hein 2021, https://arxiv.org/abs/2103.01208; constants are those of the authors' AutoAttack.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.noise import normal
from ...problem.shapes import Inputs, PerExample, choose, per_example
from ...problem.threats import Ball
from ...problem.threats.linear import level, number
from ..attack import Batch, Seen
from ..some_rows import step_where
from .apgd_state import APGDState, next_origin, on_device, updated

START_SHARE = 0.2  # of the coordinates move at first, without stages
SHRINK = 1.5  # divides the share of moving coordinates and the step size at a checkpoint
FLOOR = 10.0  # the step size never falls below the radius over this
FULL = 0.95  # a support below this share of the last one means that the search became sparser
STAGES = ((0.3, 3.0), (0.3, 2.0), (0.4, 1.0))  # large-radius schedule: share of the steps, radius

Stages = tuple[tuple[int, float], ...]
"""Steps and radius of every stage; radii are multiples of the threat's."""


@dataclass(frozen=True)
class SparseState(APGDState):
    """How sparse the next steps are."""

    stage: Int[Tensor, "B"]  # of the large-radius schedule, counted from 0
    share: PerExample  # of the coordinates that move
    support: PerExample  # coordinates that differ from the image in the best point, at the last checkpoint


@dataclass(frozen=True)
class SparseAscent:
    """Ascent along the signs of the largest gradients; how many depends on the support of the best point."""

    stages: Stages

    def start(self, threat: Ball, batch: Batch) -> SparseState:
        """A random point of the first stage's ball."""
        stage = torch.zeros_like(batch.keys)
        noise = normal(batch.keys, restart=0, like=batch.x)
        return self.start_at(threat.nearest(noise, batch.x, self._radius(stage)), stage)

    def start_at(self, delta: Inputs, stage: Int[Tensor, "B"]) -> SparseState:
        """The state of rows that start, or enter a stage, at this point."""
        zero = torch.zeros_like(delta.flatten(1)[:, 0])
        support, size = support_size(delta), delta[0].numel()
        staged = len(self.stages) > 1
        return SparseState(
            delta=delta,
            seen=torch.zeros_like(stage),
            previous=delta,
            top=delta,
            top_grad=torch.zeros_like(delta),
            top_loss=zero - torch.inf,
            step_size=zero + 1,
            stage=stage,
            share=support / (SHRINK * size) if staged else zero + START_SHARE,
            support=support if staged else zero + size,
        )

    def step(self, threat: Ball, batch: Batch, state: SparseState, seen: Seen) -> SparseState:
        """One step, and at the end of a stage the start of the next."""
        state = updated(state, seen)
        steps = self._steps(state)
        at_checkpoint = (state.seen > 1) & ((state.seen - 1) % (steps * 4 // 100).clamp(min=1) == 0)
        support = support_size(state.top)
        sparser = at_checkpoint & (support < FULL * state.support)
        here, grad = next_origin(state, seen, sparser)
        smaller = (state.step_size / SHRINK).clamp(min=1 / FLOOR)
        step_size = torch.where(sparser, 1.0, torch.where(at_checkpoint, smaller, state.step_size))
        share = torch.where(at_checkpoint, support / (SHRINK * batch.x[0].numel()), state.share)

        radius = self._radius(state.stage)
        target = here + per_example(radius * threat.r * step_size, grad) * largest_signs(grad, share)
        # A stage that has made its steps hands its best point, projected onto the next ball, to the next stage.
        over = (state.seen > steps) & (state.stage < len(self.stages) - 1)
        stage = state.stage + over.long()
        target = choose(over, state.top, target)
        delta = threat.nearest(target, batch.x, self._radius(stage))
        stepped = replace(
            state,
            delta=delta,
            previous=here,
            stage=stage,
            step_size=step_size,
            share=share,
            support=torch.where(at_checkpoint, support, state.support),
        )
        return step_where(over, lambda entering: self.start_at(entering.delta, entering.stage), stepped)

    def _radius(self, stage: Int[Tensor, "B"]) -> PerExample:
        return on_device(tuple(radius for _, radius in self.stages), torch.float32, stage.device)[stage]

    def _steps(self, state: SparseState) -> Int[Tensor, "B"]:
        steps = tuple(steps for steps, _ in self.stages)
        return on_device(steps, torch.long, state.stage.device)[state.stage]


def large_radius_stages(steps: int) -> Stages:
    """The large-radius schedule for so many steps; a single stage where they are too few for one step per stage."""
    if steps < len(STAGES) / STAGES[0][0]:
        return ((steps, 1.0),)
    early = [(int(share * steps), radius) for share, radius in STAGES[:-1]]
    return (*early, (steps - sum(used for used, _ in early), STAGES[-1][1]))


def largest_signs(grad: Inputs, share: PerExample) -> Inputs:
    """The signs of this share of the largest components, and of all that tie with the last, of absolute sum 1."""
    flat = grad.flatten(1).abs()
    d = flat.shape[1]
    smaller = ((1 - share) * d).clamp(0, d - 1).floor()[:, None]
    signs = number(torch.ge, flat, level(flat, d - smaller)).view_as(grad).mul_(grad.sign())
    return signs / per_example(signs.flatten(1).abs().sum(dim=1).clamp(min=1), grad)


def support_size(delta: Inputs) -> PerExample:
    """How many coordinates differ from the image."""
    return number(torch.ne, delta, 0.0).flatten(1).sum(dim=1)
