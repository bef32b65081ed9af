from dataclasses import dataclass, replace
from math import atanh
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.losses import Loss, margin, margin_targeted
from ...problem.shapes import Inputs, Labels, Logits, Mask, PerExample, per_example
from ...problem.threats import L2, ThreatModel
from ..attack import Batch, GradientAttack, Seen, State, where_rows

SHRINK = 0.99  # of [-1, 1] before arctanh, which is infinite at its ends
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Adam's, Kingma and Ba 2015, https://arxiv.org/abs/1412.6980
LOOKS = 10  # at the progress of a round
PROGRESS = 0.9999  # of the last look's loss: a round that is above it is given up
LARGEST = 1e10  # c


@dataclass(frozen=True)
class CarliniWagnerState(State):
    """Where each lane is in its search over c, and in the descent that this c is tried with."""

    c: PerExample  # weight of the hinge in this round
    failed: PerExample  # the largest c that found nothing; 0 before one has
    fooled: PerExample  # the smallest c that did; infinite before one has
    # This round
    moves: Int[Tensor, "B"]
    w: Inputs  # the image is 1/2 + tanh(w) / (2 SHRINK)
    mean: Inputs  # Adam's first moment
    square: Inputs  # Adam's second moment
    found: Mask
    checked: PerExample  # the loss at the last look
    # All rounds
    best: Inputs  # the smallest delta that fooled, in the ball or not: the curve of accuracy against radius reads it
    size: PerExample  # its length; infinite before there is one


@dataclass(frozen=True)
class CarliniWagner(GradientAttack[CarliniWagnerState]):
    """The smallest adversarial example by Adam on its distance and c times a hinge on the margin.

    Carlini and Wagner 2017, section VI.A, https://arxiv.org/abs/1608.04644, with confidence 0. Every example searches for
    a c of its own. The numbers are those of cleverhans 3.0.1 as Tramèr and Boneh 2019 ran it.
    """

    name: ClassVar[str] = "cw"
    source: ClassVar[str] = "Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644"
    threats: ClassVar[tuple[str, ...]] = ("l2",)
    precise: ClassVar[bool] = True

    steps: int = 1000  # moves per round
    targets: int = 0
    rounds: int = 9  # values of c; a round that is given up leaves its questions to further ones
    learning_rate: float = 5e-3  # in units of w
    c: float = 1e-2  # in the first round
    abort_early: bool = True

    @property
    def objective(self) -> Loss:
        return hinge_targeted if self.targets else hinge

    def visits(self, threat: ThreatModel) -> int:
        return self.rounds * (self.steps + 1)

    def start(self, threat: ThreatModel, batch: Batch) -> CarliniWagnerState:
        zero = torch.zeros_like(batch.x.flatten(1)[:, 0])
        still = torch.zeros_like(batch.x)
        return CarliniWagnerState(
            delta=still,
            c=zero + self.c,
            failed=zero,
            fooled=zero + torch.inf,
            moves=torch.zeros_like(batch.keys),
            w=_w_of(batch.x),
            mean=still,
            square=still,
            found=torch.zeros_like(batch.keys, dtype=torch.bool),
            checked=zero + torch.inf,
            best=still,
            size=zero + torch.inf,
        )

    def step(self, threat: ThreatModel, batch: Batch, state: CarliniWagnerState, seen: Seen) -> CarliniWagnerState:
        state = self._noted(batch, state, seen)
        loss = state.delta.flatten(1).square().sum(dim=1) - state.c * seen.loss
        look = state.moves % max(self.steps // LOOKS, 1) == 0
        stuck = look & ~(loss <= PROGRESS * state.checked) if self.abort_early else torch.zeros_like(look)
        moved = replace(self._moved(batch, state, seen), checked=torch.where(look, loss, state.checked))
        return where_rows(stuck | (state.moves == self.steps), self._next_round(batch, state), moved)

    def _noted(self, batch, state, seen):
        size = state.delta.flatten(1).square().sum(dim=1).sqrt()
        fools = fooled(seen.logits, batch.y)
        closer = fools & (size < state.size)
        return replace(
            state,
            found=state.found | fools,
            best=torch.where(per_example(closer, state.delta), state.delta, state.best),
            size=torch.where(closer, size, state.size),
        )

    def _moved(self, batch, state, seen):
        tanh = state.w.tanh()
        grad = (2 * state.delta - per_example(state.c, tanh) * seen.grad) * (1 - tanh**2) / (2 * SHRINK)
        mean = BETA1 * state.mean + (1 - BETA1) * grad
        square = BETA2 * state.square + (1 - BETA2) * grad**2
        moves = state.moves + 1
        stride = self.learning_rate * (1 - BETA2**moves).sqrt() / (1 - BETA1**moves)
        edge = atanh(SHRINK)
        w = (state.w - per_example(stride, tanh) * mean / (square.sqrt() + EPSILON)).clamp(-edge, edge)
        x_adv = (0.5 + w.tanh() / (2 * SHRINK)).clamp(0, 1)
        return replace(state, delta=x_adv - batch.x, moves=moves, w=w, mean=mean, square=square)

    def _next_round(self, batch, state):
        c, failed, fooled = next_c(state.c, state.failed, state.fooled, state.found)
        return replace(self.start(None, batch), c=c, failed=failed, fooled=fooled, best=state.best, size=state.size)


def _w_of(x):
    return torch.atanh(SHRINK * (2 * x - 1))


def hinge(logits: Logits, y: Labels, target: Labels) -> PerExample:
    return margin(logits, y).clamp(max=0)


def hinge_targeted(logits: Logits, y: Labels, target: Labels) -> PerExample:
    return margin_targeted(logits, y, target).clamp(max=0)


def fooled(logits: Logits, y: Labels) -> Mask:
    return (logits.argmax(dim=1) != y) & ~logits.isnan().any(dim=1)


def next_c(c, failed, fooled, found):
    fooled = torch.where(found, c, fooled)
    failed = torch.where(found, failed, c)
    c = torch.where(fooled.isinf(), (10 * c).clamp(max=LARGEST), (failed + fooled) / 2)
    return c, failed, fooled
