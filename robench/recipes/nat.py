"""Plain training without an attack. `Nat.train` below is the loop.

robench train nat --data digits --out digits-nat
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F

from ..errors import UserError
from ..problem.threats import ThreatModel
from ..settings import Count, Positive
from .recipe import Recipe
from .training import Training, TrainingData, share_correct


@dataclass(frozen=True)
class Nat(Recipe):
    """Plain training: Nat of Tramèr and Boneh 2019."""

    name: ClassVar[str] = "nat"
    source: ClassVar[str] = "plain training, as Nat in Tramèr and Boneh 2019, https://arxiv.org/abs/1904.13000"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "digits": {"steps": 1500, "batch": 64},
        "cifar10": {"steps": 11700, "batch": 128, "augment": True},
        "svhn": {"steps": 17160, "batch": 128},
        "tiny-imagenet": {"steps": 23430, "batch": 128, "augment": True},
    }
    divisible: ClassVar[bool] = True

    steps: Count = 6000
    batch: Count = 100
    lr: Positive = 1e-3
    augment: bool = False

    def check(self, threats: tuple[ThreatModel, ...]) -> None:
        if threats:
            raise UserError("nat trains without an attack; leave --threat out, or take the recipe pgd_at")

    def train(self, training: Training, data: TrainingData, threats: tuple[ThreatModel, ...]) -> None:
        for step in training.steps(self.steps):
            batch = data.at(step)
            training.module.train()
            logits = training.module(batch.x)
            loss = F.cross_entropy(logits, batch.y)
            training.down(loss, lr=self.rate(step))
            training.report.step(step + 1, self.steps, loss.item(), share_correct(logits, batch.y))
