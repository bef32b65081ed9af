from dataclasses import dataclass, replace
from math import atanh
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.losses import Loss, margin, margin_targeted, misclassified
from ...problem.shapes import Inputs, Labels, Logits, Mask, PerExample, per_example
from ...problem.threats import Ball
from ...settings import Bounds, Count, NonNegative, Targets
from ..attack import Batch, GradientAttack, Seen, State, where_rows
from .adam import BETA1, BETA2, EPSILON, moments

# Pixels are scaled to [-SHRINK, SHRINK] before arctanh. With the 0.999999 of the authors' code, the gradient of a pixel
# at 0 or 1 is a millionth of that of others: on binary images the attack then finds nothing in 1000 steps.
SHRINK = 0.9
EDGE = atanh(SHRINK)  # w of the pixel 1
CHECKS = 10  # of the progress of a round
PROGRESS = 0.9999  # of the loss at the last check: a round that stays above is stopped early
LARGEST = 1e10  # c

HingeWeight = Annotated[float, Bounds(above=0, high=LARGEST)]


@dataclass(frozen=True)
class RoundState(State):
    """The position of each slot in its search over c, and its best find."""

    c: PerExample  # weight of the hinge in this round
    low: PerExample  # the largest c that found nothing; 0 at first
    high: PerExample  # the smallest c that found something; infinite at first
    moves: Int[Tensor, "B"]  # steps of this round
    found: Mask  # whether this round fooled the model
    # The smallest delta that fooled, of all rounds, inside the ball or not: for curves of accuracy against the radius.
    best: Inputs
    size: PerExample  # of best; infinite before the first find


@dataclass(frozen=True)
class CarliniWagnerState(RoundState):
    """The memory of Adam in this round."""

    w: Inputs
    mean: Inputs  # first moment
    square: Inputs  # second moment
    checked: PerExample  # the loss at the last check


R = TypeVar("R", bound=RoundState)


@dataclass(frozen=True)
class CarliniWagner(GradientAttack[Ball, CarliniWagnerState]):
    """Adam on the squared distance plus c times a hinge on the margin, with a search for the smallest c that fools.

    Carlini and Wagner 2017, section VI.A, https://arxiv.org/abs/1608.04644, with confidence 0. Every example has its
    own c. Numbers are those of cleverhans 3.0.1 as Tramèr and Boneh 2019 ran it. Queries that a round saves by stopping
    early go to further rounds.
    """

    name: ClassVar[str] = "cw"
    source: ClassVar[str] = "Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644"
    threats: ClassVar[tuple[str, ...]] = ("l2",)
    precise: ClassVar[bool] = True
    minimises: ClassVar[bool] = True

    steps: Count = 1000  # steps per round
    targets: Targets = 0
    rounds: Count = 9  # values of c, if none stops early
    learning_rate: NonNegative = 5e-3  # per step, in units of w
    c: HingeWeight = 1e-2  # of the first round, in squared distances per logit
    abort_early: bool = True  # stop a round whose loss no longer falls

    @property
    def objective(self) -> Loss:
        return hinge_targeted if self.targets else hinge

    def max_queries(self, threat: Ball) -> int:
        return self.rounds * (self.steps + 1)  # every round first queries the image

    def start(self, threat: Ball, batch: Batch) -> CarliniWagnerState:
        still = torch.zeros_like(batch.x)
        return CarliniWagnerState(
            **first_round(batch, self.c),
            w=torch.atanh(SHRINK * (2 * batch.x - 1)),
            mean=still,
            square=still,
            checked=torch.full_like(still.flatten(1)[:, 0], torch.inf),
        )

    def step(self, threat: Ball, batch: Batch, state: CarliniWagnerState, seen: Seen) -> CarliniWagnerState:
        state = noted(threat, batch, state, seen)
        loss = threat.size(state.delta).square() - state.c * seen.loss
        check = state.moves % max(self.steps // CHECKS, 1) == 0
        stuck = check & ~(loss <= PROGRESS * state.checked) & self.abort_early
        moved = replace(self._moved(batch, state, seen), checked=torch.where(check, loss, state.checked))
        return where_rows(stuck | (state.moves == self.steps), next_round(state, self.start(threat, batch)), moved)

    def _moved(self, batch: Batch, state: CarliniWagnerState, seen: Seen) -> CarliniWagnerState:
        slope = (1 - state.w.tanh().square()) / (2 * SHRINK)  # of the image in w
        grad = (2 * state.delta - per_example(state.c, seen.grad) * seen.grad) * slope
        mean, square = moments(state.mean, state.square, grad)
        t = (state.moves + 1).to(grad.dtype)
        stride = self.learning_rate * (1 - BETA2**t).sqrt() / (1 - BETA1**t)
        w = state.w - per_example(stride, grad) * mean / (square.sqrt() + EPSILON)
        w = w.clamp(-EDGE, EDGE)  # shrinking leaves a little of w beyond the box
        x_adv = (0.5 + w.tanh() / (2 * SHRINK)).clamp(0, 1)
        return replace(state, delta=x_adv - batch.x, moves=state.moves + 1, w=w, mean=mean, square=square)


# The search over c, shared with EAD


def hinge(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """The margin, at most 0: going deeper gains nothing."""
    return margin(logits, y).clamp(max=0)


def hinge_targeted(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """The target's logit minus the correct one, at most 0."""
    return margin_targeted(logits, y, target).clamp(max=0)


def first_round(batch: Batch, c: float) -> dict[str, Any]:
    """The fields of a `RoundState` at the image, before any find."""
    zero, still = torch.zeros_like(batch.x.flatten(1)[:, 0]), torch.zeros_like(batch.x)
    return {
        "delta": still,
        "c": zero + c,
        "low": zero,
        "high": zero + torch.inf,
        "moves": torch.zeros_like(batch.keys),
        "found": torch.zeros_like(batch.keys, dtype=torch.bool),
        "best": still,
        "size": zero + torch.inf,
    }


def noted(threat: Ball, batch: Batch, state: R, seen: Seen) -> R:
    """The state after the answer to its query; a smaller find replaces the best one."""
    size = threat.size(state.delta)
    fools = misclassified(seen.logits, batch.y)
    closer = fools & (size < state.size)
    return replace(
        state,
        found=state.found | fools,
        best=torch.where(per_example(closer, state.best), state.delta, state.best),
        size=torch.where(closer, size, state.size),
    )


def next_round(state: R, fresh: R) -> R:
    """The state of the next round: ten times the c until one finds something, then halfway between the bounds."""
    low = torch.where(state.found, state.low, state.c)
    high = torch.where(state.found, state.c, state.high)
    c = torch.where(high.isinf(), (10 * state.c).clamp(max=LARGEST), (low + high) / 2)
    return replace(fresh, c=c, low=low, high=high, best=state.best, size=state.size)
