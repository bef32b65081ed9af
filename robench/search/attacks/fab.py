from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from ...problem.losses import TARGETED, Loss, misclassified
from ...problem.noise import normal
from ...problem.shapes import Inputs, PerExample, choose, per_example
from ...problem.threats import Ball
from ...settings import Bounds, Count, NonNegative, Share
from ..attack import Batch, GradientAttack, Seen, State

TINY = 1e-8  # keeps 0 / 0 away if neither point has a way to go


@dataclass(frozen=True)
class FAB(GradientAttack[Ball, State]):
    """Fast adaptive boundary: steps onto the linearised boundary with one class, pulled towards the image.

    The targeted form, Croce and Hein 2020, https://arxiv.org/abs/1907.02044, as in AutoAttack. It searches for the
    nearest adversarial point and ignores the radius: it also walks outside the ball, and any point it meets inside
    counts. One thing differs: after a find, the next step starts from the point moved back towards the image, as in the
    paper, but uses the gradient at the find. The authors query the point moved back as well, which doubles the cost of
    such a step; on the bundled digits models it found no more.
    """

    name: ClassVar[str] = "fab"
    source: ClassVar[str] = "Fast adaptive boundary, Croce and Hein 2020, https://arxiv.org/abs/1907.02044"
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    minimises: ClassVar[bool] = True
    precise: ClassVar[bool] = True  # it walks along the boundary

    steps: Count = 100
    targets: Annotated[int, Bounds(1, why="every search aims at a class")] = 9
    alpha_max: Share = 0.1  # the largest weight of the image in a step
    eta: NonNegative = 1.05  # length of a step, in ways to the hyperplane
    beta: Share = 0.9  # share of delta that is left for the next step after a find
    random_start: bool = False  # AutoAttack's only search starts at the image, later restarts at random points

    @property
    def objective(self) -> Loss:
        return TARGETED["margin"]

    def start(self, threat: Ball, batch: Batch) -> State:
        if not self.random_start:
            return State(torch.zeros_like(batch.x))
        return State(
            threat.sample(batch.x, normal(batch.keys, restart=0, like=batch.x)) / 2
        )  # half way, as in the authors' code

    def step(self, threat: Ball, batch: Batch, state: State, seen: Seen) -> State:
        fooled = misclassified(seen.logits, batch.y)
        here = choose(fooled, self.beta * state.delta, state.delta)

        def to_boundary(delta: Inputs) -> Inputs:
            value = seen.loss + _dot(seen.grad, delta - state.delta)
            return threat.to_hyperplane(batch.x + delta, seen.grad, value)

        from_here, from_image = to_boundary(here), to_boundary(torch.zeros_like(here))
        far, farther = threat.size(from_here).clamp(min=TINY), threat.size(from_image).clamp(min=TINY)
        alpha = per_example((far / (far + farther)).clamp(max=self.alpha_max), here)
        moved = (1 - alpha) * (here + self.eta * from_here) + alpha * self.eta * from_image
        return State((batch.x + moved).clamp(0, 1) - batch.x)


def _dot(a: Inputs, b: Inputs) -> PerExample:
    return (a * b).flatten(1).sum(dim=1)
