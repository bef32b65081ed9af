from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.losses import TARGETED, UNTARGETED, Loss, misclassified
from ...problem.shapes import Mask, PerExample, per_example
from ...problem.threats import Ball, dense_steepest, inward
from ...settings import Bounds, Count, Positive, Targets
from ..attack import Batch, GradientAttack, Seen, State
from .fading import fading

LAST_STEP_SIZE = 0.01  # of the first
LAST_GAMMA = 0.001
TINY = 1e-30  # keeps 0 / 0 away


@dataclass(frozen=True)
class FMNState(State):
    """The radius of each slot, its best size, and its progress."""

    radius: PerExample  # of the ball that delta was projected onto; infinite at the image
    smallest: PerExample  # size of the smallest delta that fooled; infinite before the first find
    moves: Int[Tensor, "B"]


@dataclass(frozen=True)
class FMN(GradientAttack[Ball, FMNState]):
    """Ascent on the margin, projected onto a ball that shrinks after a find and grows otherwise.

    Fast minimum norm: Pintor et al. 2021, algorithm 1, https://arxiv.org/abs/2102.12827. It starts at the image and
    uses no noise. Before the first find, the radius is the distance of the linearised boundary. It ignores the radius
    of the threat: any point it meets inside the ball counts. Four things differ. Step sizes are in radii of the current
    ball, not in pixel values. Under l_inf, steps follow the signs of the gradient. The projection is onto ball and box
    together. The linearised boundary is that of the pixels that can still move, and is overstepped by gamma; otherwise
    a walk along the edge of the box approaches the boundary and never crosses it. On `mnist-adv-linf`, each of the
    first two makes the finds 10 to 25 % smaller.
    """

    name: ClassVar[str] = "fmn"
    source: ClassVar[str] = "Fast minimum norm, Pintor et al. 2021, https://arxiv.org/abs/2102.12827"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    precise: ClassVar[bool] = True  # it walks along the boundary
    minimises: ClassVar[bool] = True

    steps: Count = 200
    targets: Targets = 0
    step_size: Positive = 2.0  # of the first step, in radii; falls along a cosine to 1 %
    gamma: Annotated[float, Bounds(above=0, below=1)] = (
        0.1  # share by which the radius first changes in a step; falls along a cosine to 0.001
    )

    @property
    def objective(self) -> Loss:
        return (TARGETED if self.targets else UNTARGETED)["margin"]

    def start(self, threat: Ball, batch: Batch) -> FMNState:
        still = torch.zeros_like(batch.x)
        never = torch.full_like(still.flatten(1)[:, 0], torch.inf)
        return FMNState(still, radius=never, smallest=never, moves=torch.zeros_like(batch.keys))

    def step(self, threat: Ball, batch: Batch, state: FMNState, seen: Seen) -> FMNState:
        part = state.moves / self.steps
        fooled = misclassified(seen.logits, batch.y) & (seen.loss > 0)
        size = threat.size(state.delta)
        smallest = torch.where(fooled, torch.minimum(size, state.smallest), state.smallest)
        radius = self._radius(threat, batch, state, seen, fooled, smallest)
        radius = radius.clamp(max=batch.x[0].numel())  # no box is larger
        step_size = radius * fading(part, self.step_size, LAST_STEP_SIZE * self.step_size)
        ahead = state.delta + per_example(step_size, seen.grad) * dense_steepest(threat, seen.grad)
        return FMNState(threat.nearest(ahead, batch.x, radius / threat.r), radius, smallest, state.moves + 1)

    def _radius(
        self, threat: Ball, batch: Batch, state: FMNState, seen: Seen, fooled: Mask, smallest: PerExample
    ) -> PerExample:
        """The radius of the next ball."""
        gamma = fading(state.moves / self.steps, self.gamma, LAST_GAMMA)
        ascent = inward(seen.grad, state.delta, batch.x)
        steepness = (ascent * threat.steepest(ascent)).flatten(1).sum(dim=1)  # the largest gain of a move of size 1
        boundary = threat.size(state.delta) + seen.loss.abs() / steepness.clamp(min=TINY)
        grown = (1 + gamma) * torch.where(smallest.isinf(), boundary, state.radius)
        return torch.where(fooled, torch.minimum((1 - gamma) * state.radius, smallest), grown)
