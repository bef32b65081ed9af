"""Adversarial training with PGD, Madry et al. 2018. https://arxiv.org/abs/1706.06083

robench train pgd_at --data mnist --threat linf:0.3 --out mnist-adv-linf
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F

from ..errors import UserError
from ..problem.threats import Ball, ThreatModel
from ..search.attack import GradientAttack, State, unroll
from ..search.attacks.pgd import PGD
from ..search.attacks.slide import SLIDE
from .recipe import Recipe
from .training import Training, TrainingData, right


@dataclass(frozen=True)
class PGDAdversarialTraining(Recipe):
    """Trains on what PGD makes of each batch. Numbers as in Tramèr and Boneh's MNIST configuration.

    Except that the inner steps are Madry's 2.5 radii in all: theirs, ten of 0.01 from a random start, reach
    a third of the radius 0.3. The first tenth of the training is at a third of the radius, as theirs is.
    """

    name: ClassVar[str] = "pgd_at"
    source: ClassVar[str] = "PGD adversarial training, Madry et al. 2018, https://arxiv.org/abs/1706.06083"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "digits": {"steps": 2000, "batch": 64},
        "cifar10": {"steps": 11700, "batch": 128, "augment": True},
    }

    steps: int = 6000
    batch: int = 100
    lr: float = 1e-3
    inner_steps: int = 10
    inner_step_size: float = 0.25  # in radii
    warmup: float = 0.1  # the share of the training that is done at a third of the radius
    augment: bool = False

    def adversary(self, threat: ThreatModel) -> GradientAttack[Ball, State]:
        """PGD; under l_1 SLIDE, as in Tramèr and Boneh: one coordinate at a time is too weak a teacher."""
        kind = SLIDE if threat.name == "l1" else PGD
        return kind(steps=self.inner_steps, step_size=self.inner_step_size, loss="cross-entropy")

    def check(self, threats: tuple[ThreatModel, ...]) -> None:
        if len(threats) != 1:
            raise UserError("pgd_at trains against one threat; give it one, like --threat linf:0.3")
        if not isinstance(threats[0], Ball) or threats[0].name not in PGD.threats:
            raise UserError(f"pgd_at cannot train against {threats[0]}: PGD attacks {', '.join(PGD.threats)}")

    def train(self, training: Training, data: TrainingData, threats: tuple[ThreatModel, ...]) -> None:
        (threat,) = threats
        assert isinstance(threat, Ball), "check() has seen it"
        adversary = self.adversary(threat)
        gentle = replace(threat, radius=threat.radius / 3)
        for step in training.steps(self.steps):
            batch = data.at(step)
            training.module.eval()  # the adversary must not move the batch-norm statistics: P-31
            delta = unroll(
                training.module, gentle if step < self.warmup * self.steps else threat, adversary, batch
            ).delta
            training.module.train()
            logits = training.module(batch.x + delta)
            loss = F.cross_entropy(logits, batch.y)
            training.down(loss, lr=self.lr if step < self.steps / 2 else self.lr / 10)
            training.report.step(step + 1, self.steps, loss.item(), right(logits, batch.y))
