from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.losses import TARGETED, UNTARGETED, Loss, misclassified
from ...problem.shapes import Inputs, Mask, PerExample, per_example
from ...problem.threats import L0
from ...problem.threats.lp import over_channels, pixels
from ...settings import Count, Positive, Share, Targets
from ..attack import Batch, GradientAttack, Seen, State
from .adam import moments, unbiased
from .ead import boxed
from .fading import fading

LAST_STEP_SIZE = 0.1  # of the first
TINY = 1e-12  # keeps 0 / 0 away


@dataclass(frozen=True)
class SigmaZeroState(State):
    """The moments of Adam, the threshold of each slot, and its progress."""

    mean: Inputs
    square: Inputs
    threshold: PerExample  # pixels that change by less are put back
    moves: Int[Tensor, "B"]


@dataclass(frozen=True)
class SigmaZero(GradientAttack[L0, SigmaZeroState]):
    """Descent on a hinge plus a smooth count of the changed pixels; changes below an adaptive threshold are undone.

    Cinà et al. 2025 (sigma-zero), algorithm 1, https://arxiv.org/abs/2402.01879. It starts at the image and uses no
    noise. The count is the mean of `d**2 / (d**2 + sigma)`. The gradient of the sum has the largest component 1; Adam
    takes the step. The threshold rises after a find and falls otherwise. It ignores the radius: any point it meets
    inside the ball counts. One thing differs: as `l0` counts pixels, `d` is the length of a pixel's change over its
    channels, and pixels are put back whole, by their largest channel. With one channel it is the paper's.
    """

    name: ClassVar[str] = "sigma-zero"
    source: ClassVar[str] = "sigma-zero, Cinà et al. 2025, https://arxiv.org/abs/2402.01879"
    threats: ClassVar[tuple[str, ...]] = ("l0",)
    precise: ClassVar[bool] = True  # it walks along the boundary
    minimises: ClassVar[bool] = True

    steps: Count = 300
    targets: Targets = 0
    step_size: Positive = 1.0  # of the first step; falls along a cosine to a tenth
    sigma: Positive = 1e-3  # squared change at which a pixel counts half
    threshold: Share = 0.3  # at first
    threshold_rate: Share = 0.01  # of the step size: by how much the threshold changes in a step

    @property
    def objective(self) -> Loss:
        return (TARGETED if self.targets else UNTARGETED)["margin"]

    def start(self, threat: L0, batch: Batch) -> SigmaZeroState:
        still = torch.zeros_like(batch.x)
        threshold = torch.full_like(still.flatten(1)[:, 0], self.threshold)
        return SigmaZeroState(still, still, still, threshold, torch.zeros_like(batch.keys))

    def step(self, threat: L0, batch: Batch, state: SigmaZeroState, seen: Seen) -> SigmaZeroState:
        fooled = misclassified(seen.logits, batch.y) & (seen.loss > 0)
        mean, square = moments(state.mean, state.square, self._slope(state.delta, seen, fooled))
        moves = state.moves + 1
        descent, root = unbiased(mean, square, moves)
        step_size = fading(state.moves / self.steps, self.step_size, LAST_STEP_SIZE * self.step_size)
        moved = boxed(state.delta - per_example(step_size, descent) * descent / root, batch.x)
        change = self.threshold_rate * step_size
        threshold = (state.threshold + torch.where(fooled, change, -change)).clamp(0, 1)
        large = pixels(moved).abs().amax(dim=1) >= threshold[:, None]
        delta = moved * over_channels(large.to(moved.dtype), moved)
        return SigmaZeroState(delta, mean, square, threshold, moves)

    def _slope(self, delta: Inputs, seen: Seen, fooled: Mask) -> Inputs:
        """The gradient of the hinge plus the smooth count, divided by its largest component."""
        size = pixels(delta).square().sum(dim=1)
        share = 2 * self.sigma / (size + self.sigma).square() / size.shape[1]
        slope = delta * over_channels(share, delta) - seen.grad.masked_fill(per_example(fooled, delta), 0)
        return slope / per_example(slope.flatten(1).abs().amax(dim=1).clamp(min=TINY), slope)
