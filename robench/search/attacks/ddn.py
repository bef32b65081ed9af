from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.losses import TARGETED, Loss, misclassified
from ...problem.shapes import Labels, Logits, PerExample, per_example
from ...problem.threats import Ball
from ...settings import Bounds, Count, Positive, Targets
from ..attack import Batch, GradientAttack, Seen, State
from .fading import fading

LAST_STEP_SIZE = 0.01  # of the first
LAST_GAMMA = 0.001  # a norm that still changes by 5 % at the end finds nothing nearer than 5 %
FAR = 1e4  # length of a ray before ball and box cut it, in norms


@dataclass(frozen=True)
class DDNState(State):
    """The norm of each slot, and its progress."""

    norm: PerExample  # of the sphere that delta lies on
    moves: Int[Tensor, "B"]


@dataclass(frozen=True)
class DDN(GradientAttack[Ball, DDNState]):
    """Steps along the unit gradient, projected onto a sphere that shrinks after a find and grows otherwise.

    Decoupling direction and norm: Rony et al. 2019, algorithm 1, https://arxiv.org/abs/1811.09600. It starts at the
    image and uses no noise. It ignores the radius: any point it meets inside the ball counts. Four things differ from
    the paper. Step sizes are in norms of the sphere, not in pixel values. As in FMN (Pintor et al. 2021), the change of
    the norm falls with the step size. The norm holds after the box cuts, not before, or pixels at the edge would waste
    it. The loss has the direction of the cross-entropy but does not vanish where the model is confident; a targeted
    search maximises the margin of its class, whose boundary is the model's own.
    """

    name: ClassVar[str] = "ddn"
    source: ClassVar[str] = "Decoupled direction and norm, Rony et al. 2019, https://arxiv.org/abs/1811.09600"
    threats: ClassVar[tuple[str, ...]] = ("l2",)
    minimises: ClassVar[bool] = True

    steps: Count = 200
    targets: Targets = 0
    init_norm: Positive = 1.0  # of the first sphere
    step_size: Positive = 2.0  # of the first step, in norms of the sphere; falls along a cosine to 1 %
    gamma: Annotated[float, Bounds(above=0, below=1)] = (
        0.1  # share by which the norm first changes in a step; falls along a cosine to 0.001
    )

    @property
    def objective(self) -> Loss:
        return TARGETED["margin"] if self.targets else log_odds

    def start(self, threat: Ball, batch: Batch) -> DDNState:
        still = torch.zeros_like(batch.x)
        norm = torch.full_like(still.flatten(1)[:, 0], self.init_norm)
        return DDNState(still, norm=norm, moves=torch.zeros_like(batch.keys))

    def step(self, threat: Ball, batch: Batch, state: DDNState, seen: Seen) -> DDNState:
        fooled = misclassified(seen.logits, batch.y)
        gamma = fading(state.moves / self.steps, self.gamma, LAST_GAMMA)
        norm = state.norm * torch.where(fooled, 1 - gamma, 1 + gamma)
        norm = norm.clamp(max=batch.x[0].numel() ** 0.5)  # the box ends there
        step_size = norm * fading(state.moves / self.steps, self.step_size, LAST_STEP_SIZE * self.step_size)
        ahead = state.delta + per_example(step_size, seen.grad) * threat.steepest(seen.grad)
        # A ray far outside: `nearest` only shrinks, and gives its multiple of this norm after the box's cut.
        ray = threat.steepest(ahead) * per_example(FAR * norm, ahead)
        return DDNState(threat.nearest(ray, batch.x, norm / threat.r), norm, state.moves + 1)


def log_odds(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """The log-odds of a wrong class. Its gradient has the direction of that of the cross-entropy."""
    correct = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -torch.inf).logsumexp(dim=1) - correct
