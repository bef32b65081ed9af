"""TRADES, Zhang et al. 2019. https://arxiv.org/abs/1901.08573

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train trades --data mnist --threat linf:0.3 --out mnist-trades
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..problem.noise import normal
from ..problem.shapes import Inputs, Labels, Logits, PerExample
from ..problem.threats import Ball
from ..search.attack import State, differentiate
from ..search.attacks.pgd import PGD
from ..settings import NonNegative
from .adversarial import AdversarialTraining, StepResult, TrainingStep
from .training import share_correct

NOISE = 0.001  # standard deviation of the start around the image, in pixel values, as in the authors' code


@dataclass(frozen=True)
class Trades(AdversarialTraining):
    """Cross-entropy on clean images plus beta times the divergence between their predictions and those of neighbours.

    The neighbours maximise that divergence. Gradients of the loss flow through both predictions, as in the authors'
    code.
    """

    name: ClassVar[str] = "trades"
    source: ClassVar[str] = "TRADES, Zhang et al. 2019, https://arxiv.org/abs/1901.08573"
    attacked: ClassVar[tuple[str, ...]] = PGD.threats
    several: ClassVar[bool] = False
    own_attack: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        data: settings | ({} if data == "digits" else {"beta": 6.0})
        for data, settings in AdversarialTraining.presets.items()
    }

    beta: NonNegative = 1.0  # weight of the divergence; the authors' value for MNIST; 6 for CIFAR-10

    def train_step(self, step: TrainingStep) -> StepResult:
        module, batch = step.module, step.batch
        x_adv = self.neighbours(step)
        module.train()
        clean, adversarial = module(batch.x), module(x_adv)
        loss = F.cross_entropy(clean, batch.y) + self.beta * divergence(clean, adversarial).mean()
        return StepResult(loss, share_correct(adversarial, batch.y))

    def neighbours(self, step: TrainingStep) -> Inputs:
        """Adversarial images whose predictions diverge most from those of the clean batch."""
        module, batch, (threat,) = step.module, step.batch, step.threats
        assert isinstance(threat, Ball), "see check()"
        with torch.no_grad():
            clean = module(batch.x)

        def objective(logits: Logits, y: Labels, target: Labels) -> PerExample:
            return divergence(clean, logits)

        attack = self.pgd(threat)
        start = NOISE * normal(batch.keys, restart=0, like=batch.x)
        state = State(threat.project(start, batch.x))
        for _ in range(self.inner_steps):
            seen = differentiate(module, objective, batch.x + state.delta, batch.y, batch.y)
            state = attack.step(threat, batch, state, seen)
        return batch.x + state.delta


def divergence(logits: Tensor, other: Tensor) -> PerExample:
    """The Kullback-Leibler divergence of the second prediction from the first, row by row."""
    p, q = F.log_softmax(logits, dim=1), F.log_softmax(other, dim=1)
    return (p.exp() * (p - q)).sum(dim=1)
