from dataclasses import dataclass
from math import log
from typing import Annotated, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.losses import TARGETED, UNTARGETED, Loss, misclassified
from ...problem.shapes import Inputs, PerExample, per_example
from ...problem.threats import EUCLIDEAN, Ball
from ...settings import Bounds, Count, Positive, Targets
from ..attack import Batch, GradientAttack, Seen, State
from .adam import moments, unbiased
from .ead import boxed

LAST_STEP_SIZE = 0.01  # of the first
LAST_DUAL_STEP = 0.1  # of the first
AVERAGING = 0.9  # weight of the old multipliers in the average
LARGEST = log(1e6)  # log of the ratio of the multipliers, either way


@dataclass(frozen=True)
class PDPGDState(State):
    """The moments of Adam, the multipliers of each slot, and its progress."""

    mean: Inputs
    square: Inputs
    dual: PerExample  # log of the multiplier of the boundary over that of the norm
    share: PerExample  # averaged multiplier of the norm; that of the boundary is 1 less this
    moves: Int[Tensor, "B"]


@dataclass(frozen=True)
class PDPGD(GradientAttack[Ball, PDPGDState]):
    """Primal-dual proximal gradient descent: Adam crosses the boundary, the proximal operator of the norm comes back.

    Matyasko and Chau 2021 (PDPGD), https://arxiv.org/abs/2106.01538: a saddle point of the norm and the condition that
    the class is wrong, each with a multiplier. Multipliers sum to 1, and move with the sign of the margin. It starts at
    the image, uses no noise and ignores the radius: any point it meets inside the ball counts. Schedules are those of
    adv-lib (Rony and Ben Ayed 2020). Three things differ. The proximal operator in the metric of Adam is exact; the
    authors' code approximates it by five inner iterations. Every gradient is divided by its length, so the scale of the
    logits does not matter. Steps are ten times as long and the norm weighs a hundredth at first, as the exact operator
    pulls harder.
    """

    name: ClassVar[str] = "pdpgd"
    source: ClassVar[str] = "Primal-dual proximal gradient, Matyasko and Chau 2021, https://arxiv.org/abs/2106.01538"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    precise: ClassVar[bool] = True  # it walks along the boundary
    minimises: ClassVar[bool] = True

    steps: Count = 500
    targets: Targets = 0
    step_size: Positive = 1.0  # of the first step, in pixel values; falls geometrically to 1 %
    dual_step: Positive = 0.1  # by which the log of the ratio of multipliers changes at first; falls linearly to 10 %
    norm_weight: Annotated[float, Bounds(above=0, high=1e6)] = 1e-4  # first multiplier of the norm over the other

    @property
    def objective(self) -> Loss:
        return (TARGETED if self.targets else UNTARGETED)["margin"]

    def start(self, threat: Ball, batch: Batch) -> PDPGDState:
        still = torch.zeros_like(batch.x)
        dual = torch.full_like(still.flatten(1)[:, 0], -log(self.norm_weight))
        return PDPGDState(still, still, still, dual, torch.sigmoid(-dual), torch.zeros_like(batch.keys))

    def step(self, threat: Ball, batch: Batch, state: PDPGDState, seen: Seen) -> PDPGDState:
        fooled = misclassified(seen.logits, batch.y) & (seen.loss > 0)
        slope = -EUCLIDEAN.steepest(seen.grad).masked_fill(per_example(fooled, seen.grad), 0)  # of a hinge
        mean, square = moments(state.mean, state.square, slope)
        moves, part = state.moves + 1, state.moves / self.steps
        descent, metric = unbiased(mean, square, moves)
        step_size = self.step_size * LAST_STEP_SIZE**part
        ahead = boxed(state.delta - per_example(step_size, descent) * descent / metric, batch.x)
        weight = step_size * state.share / (1 - state.share)
        delta = threat.proximal(ahead, weight, metric)  # nearer to 0 in every pixel, so inside the box
        change = self.dual_step * (1 - (1 - LAST_DUAL_STEP) * part)
        dual = (state.dual + torch.where(fooled, -change, change)).clamp(-LARGEST, LARGEST)
        share = AVERAGING * state.share + (1 - AVERAGING) * torch.sigmoid(-dual)
        return PDPGDState(delta, mean, square, dual, share, moves)
