from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import UserError
from ...problem.shapes import Inputs, PerExample, per_example
from ...problem.threats import Ball
from ..attack import Batch, Candidates, LabelAttack, where_rows
from .starts import (
    LINE,
    STARTS,
    Answers,
    Noise,
    WalkState,
    along_line,
    answered,
    faded,
    fresh,
    lined,
    moved,
    nearest,
    noise_of,
    started,
    starts,
)

WALK = 2  # the phase after START and LINE
GAP = 1e-2  # of the distance: how near the boundary the walk begins
TRIALS = 4  # one candidate in so many stays at its distance, to see how flat the boundary is
RECENT = 0.8  # weight of what was seen before in a rate
FLAT, BENT = 0.5, 0.2  # shares of candidates at the same distance that fool: above, steps grow; below, they shrink
TOO_SHY, TOO_BOLD = 0.25, 0.05  # the same of those that also step towards the image
FACTOR = 1.5
SMALLEST = 1e-4  # steps


@dataclass(frozen=True)
class BoundaryState(WalkState):
    around: PerExample  # orthogonal step, in distances
    towards: PerExample  # step towards the image, in distances
    flatness: PerExample  # share of late candidates at the same distance that fooled
    success: PerExample  # the same of those that also stepped towards the image
    memory: Inputs  # mean of unit steps around, those that fooled minus those that did not; late ones count more


@dataclass(frozen=True)
class Boundary(LabelAttack[Ball, BoundaryState]):
    name: ClassVar[str] = "boundary"
    source: ClassVar[str] = "Boundary attack, Brendel et al. 2018, https://arxiv.org/abs/1712.04248"
    threats: ClassVar[tuple[str, ...]] = ("l2",)
    minimises: ClassVar[bool] = True
    comes_from_outside: ClassVar[bool] = True

    steps: int = 1000
    targets: int = 0
    around: float = 0.03
    towards: float = 0.01
    memory: float = 0.9
    bias: float = 1.0
    mode: int = 0
    wide: int = 32  # images that each example asks about at once

    @property
    def width(self) -> int:
        return self.wide

    def visits(self, threat: Ball) -> int:
        return self.steps

    def start(self, threat: Ball, batch: Batch) -> BoundaryState:
        zero = torch.zeros_like(batch.x.flatten(1)[:, 0])
        state = BoundaryState(
            **fresh(batch, self.wide),
            around=zero + self.around,
            towards=zero + self.towards,
            flatness=zero + (FLAT + BENT) / 2,
            success=zero + (TOO_SHY + TOO_BOLD) / 2,
            memory=torch.zeros_like(batch.x),
        )
        return self._asking(threat, batch, state)

    def query(self, threat: Ball, batch: Batch, state: BoundaryState) -> Candidates:
        return state.asked

    def step(self, threat: Ball, batch: Batch, state: BoundaryState, labels: Int[Tensor, "L W"]) -> BoundaryState:
        answers = answered(threat, batch, state, labels)
        state = replace(state, passes=state.passes + 1, taken=state.taken + 1)
        after = started(batch, state, answers)
        after = where_rows(state.phase == LINE, lined(batch, state, answers, GAP, WALK), after)
        after = where_rows(state.phase == WALK, self._walked(threat, batch, state, answers), after)
        return self._asking(threat, batch, after)

    def _ladders(self, state):
        n = torch.arange(self.wide, device=state.size.device)
        trial = n % TRIALS == 0
        k = n - n // TRIALS - 1
        turn = torch.where(trial, 1.0, 2.0 ** (k % 3 - 1))
        step = torch.where(trial, 0.0, 2.0 ** (k // 3 % 4 - 2 + 0.5 * (self.mode % 2)))
        bias = torch.where(trial, 0.0, self.bias * 2.0 ** (k % 4 - 1)) if self.mode < 4 else torch.full_like(turn, self.bias)
        return trial, turn, step, bias

    def _walked(self, threat: Ball, batch: Batch, state: BoundaryState, answers: Answers) -> BoundaryState:
        trial, turn, step, bias = self._ladders(state)
        fools = answers.fools.to(state.size.dtype)
        flatness = RECENT * state.flatness + (1 - RECENT) * fools[:, trial].mean(dim=1)
        both = torch.where(flatness > FLAT, FACTOR, torch.where(flatness < BENT, 1 / FACTOR, 1.0))
        which = nearest(answers.fools & (answers.size < state.size[:, None]), answers.size)
        won = which[0].isfinite()
        one = torch.where(won, 1.2 * step[which[1]].clamp(min=0.25) ** 0.5, 1 / FACTOR)
        bent = torch.where(won, turn[which[1]] ** 0.5, 1 / 1.1)
        unit = state.asked - batch.x[:, None]
        out = _unit(state.delta[:, None])
        unit = unit - (unit * out).flatten(2).sum(2).view(*unit.shape[:2], 1, 1, 1) * out
        unit = _unit(unit)
        vote = (fools - fools.mean(dim=1, keepdim=True)).view(*fools.shape, 1, 1, 1)
        if self.mode & 8:
            tm = fools[:, trial].mean(dim=1, keepdim=True)
            om = fools[:, ~trial].mean(dim=1, keepdim=True)
            vote = (fools - torch.where(trial, tm, om)).view(*fools.shape, 1, 1, 1)
        memory = self.memory * state.memory + (1 - self.memory) * (unit * vote).mean(dim=1)
        if self.mode & 2:
            around, towards = state.around * bent, state.towards * one
        else:
            around, towards = state.around * both, state.towards * one
        return replace(
            moved(batch, state, answers),
            around=around.clamp(SMALLEST, 1),
            towards=towards.clamp(SMALLEST, 0.5),
            flatness=torch.where(both != 1, (FLAT + BENT) / 2, flatness),
            memory=memory,
        )

    def _asking(self, threat: Ball, batch: Batch, state: BoundaryState) -> BoundaryState:
        noise = noise_of(batch.keys, state.taken, self.wide, batch.x)
        asked = starts(threat, batch.x, noise, state.size)
        for phase, images in (
            (LINE, along_line(threat, batch, state, self.wide)),
            (WALK, self._candidates(threat, batch, state, noise)),
        ):
            asked = torch.where(per_example(state.phase == phase, asked), images, asked)
        return replace(state, asked=asked)

    def _candidates(self, threat: Ball, batch: Batch, state: BoundaryState, noise: Noise) -> Candidates:
        trial, turn, step, bias = self._ladders(state)
        noise = torch.erfinv(2 * noise[..., : batch.x[0].numel()] - 1).view_as(state.asked)
        out = _unit(state.delta[:, None])
        aside = _unit(noise) + bias.view(1, -1, 1, 1, 1) * _unit(state.memory[:, None])
        aside = aside - (aside * out).flatten(2).sum(dim=2).view(*noise.shape[:2], 1, 1, 1) * out
        size = torch.where(state.size.isfinite(), state.size, 0)
        turned = out + (state.around[:, None] * turn).view(*noise.shape[:2], 1, 1, 1) * _unit(aside)
        far = size[:, None] * (1 - (state.towards[:, None] * step).clamp(max=0.6))
        there = (batch.x[:, None] + _unit(turned) * per_example(size, noise)).clamp(0, 1) - batch.x[:, None]
        return faded(threat, batch.x, there, far)


def _unit(v: Tensor) -> Tensor:
    return v / v.flatten(2).norm(dim=2).clamp(min=1e-30).view(*v.shape[:2], 1, 1, 1)
