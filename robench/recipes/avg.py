"""Adversarial training on all threats at once, Tramèr and Boneh 2019, section 3. https://arxiv.org/abs/1904.13000

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train avg --data mnist --threat linf:0.3 --threat l2:2 --threat l1:10 --out mnist-adv-avg
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from .adversarial import AdversarialTraining, StepResult, TrainingStep, cross_entropy_step


@dataclass(frozen=True)
class Average(AdversarialTraining):
    """Every batch is attacked under every threat, and one step minimises the mean loss over all: Adv_avg.

    As in the authors' code, all adversarial images form one batch, without the clean images.
    """

    name: ClassVar[str] = "avg"
    source: ClassVar[str] = "mean loss over all threats, Tramèr and Boneh 2019, https://arxiv.org/abs/1904.13000"

    def train_step(self, step: TrainingStep) -> StepResult:
        x_adv = torch.cat([self.images(step, threat) for threat in step.threats])
        return cross_entropy_step(step.module, x_adv, step.batch.y.repeat(len(step.threats)))
