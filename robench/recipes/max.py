"""Adversarial training on the worst threat, Tramèr and Boneh 2019, section 3. https://arxiv.org/abs/1904.13000

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train max --data mnist --threat linf:0.3 --threat l2:2 --threat l1:10 --out mnist-adv-max
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step, highest


@dataclass(frozen=True)
class Maximum(AdversarialTraining):
    """Every batch is attacked under every threat, and training uses the worst image of each example: Adv_max.

    The losses are compared in inference mode, as in the authors' code.
    """

    name: ClassVar[str] = "max"
    source: ClassVar[str] = "worst loss over all threats, Tramèr and Boneh 2019, https://arxiv.org/abs/1904.13000"

    def train_step(self, step: TrainingStep) -> StepResult:
        candidates = torch.stack([self.images(step, threat) for threat in step.threats], dim=1)
        return cross_entropy_step(step.module, highest(step.module, candidates, step.batch.y), step.batch.y)
