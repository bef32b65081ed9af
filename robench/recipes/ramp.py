"""RAMP, Jiang and Singh 2024, sections 4.2 to 4.4. https://arxiv.org/abs/2402.06827

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch, and `after_step`
after the optimiser's step.

robench train ramp --data mnist --threat linf:0.3 --threat l1:10 --out mnist-ramp
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..problem.shapes import Inputs, Logits, Mask
from ..problem.threats import Ball, ThreatModel
from ..search.attacks.apgd import APGD
from ..settings import NonNegative, Share
from . import projection
from .adversarial import AdversarialTraining, StepResult, TrainingStep
from .ascent import ascend
from .data_parallel import ALONE, Ranks
from .trades import divergence
from .training import Training, TrainingData


@dataclass(frozen=True)
class Ramp(AdversarialTraining):
    """The worse of two norms per example, with answers paired between the norms, and updates of natural training.

    The loss is the cross-entropy of each example under the norm that is worse for it, plus `pairing` times the mean
    divergence of the answers under the second norm from those under the first, over the examples that the first norm
    leaves correct. Attacks are APGD from the image itself.

    Every epoch also trains a copy of the network on the images as they are, and takes what it learns into the update
    of the network, tensor by tensor, where the two agree: gradient projection.

    The norms are the pair with the hardest trade-off, the one that training for the other loses first. The authors
    take linf and l1 on CIFAR-10, from random weights with `pairing` 2, and without gradient projection to fine-tune a
    model that is robust under one norm: `--set beta=0 --set pairing=0.5`.
    """

    name: ClassVar[str] = "ramp"
    source: ClassVar[str] = (
        "the worse of two norms, paired answers, natural updates; RAMP, Jiang and Singh 2024, "
        "https://arxiv.org/abs/2402.06827"
    )
    attacked: ClassVar[tuple[str, ...]] = APGD.threats
    own_attack: ClassVar[bool] = True

    pairing: NonNegative = 2.0  # weight of the divergence: lambda of the paper
    beta: Share = 0.5  # share of natural training in an update; 0: no gradient projection

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        # APGD adapts its step size. An average would lack the natural updates, which come after the optimiser's step.
        return (*super().unused(), "inner_step_size", "l1_steps", "weight_average")

    def check(self, threats: tuple[ThreatModel, ...]) -> None:
        super().check(threats)
        if len(threats) != 2:
            raise UserError(f"ramp trains against two threats, not {len(threats)}; name the two that conflict most")

    def train_step(self, step: TrainingStep) -> StepResult:
        if self.beta:
            projection.begin(step.module, step.memory)
        first, second = (self.images(step, threat) for threat in step.threats)
        module, y = step.module.train(), step.batch.y
        logits = torch.stack([module(first), module(second)])
        each = torch.stack([F.cross_entropy(answer, y, reduction="none") for answer in logits])
        worst, which = each.max(dim=0)
        correct = logits.argmax(dim=2) == y
        loss = worst.mean() + self.pairing * paired(logits[0], logits[1], correct[0], step.ranks)
        return StepResult(loss, correct.gather(0, which[None]).float().mean().item())

    def images(self, step: TrainingStep, threat: ThreatModel) -> Inputs:
        assert isinstance(threat, Ball), "see check()"
        return ascend(step.module, step.batch, threat, self.inner_steps).x_adv

    def after_step(self, training: Training, data: TrainingData, number: int) -> None:
        """The step of the copy; at the end of an epoch and of the training, the network takes its share of it."""
        if not self.beta:
            return
        module, memory = training.module, training.memory
        given = (self.optimiser_for, self.rate(number), self.clip, training.ranks)
        projection.learn(module, memory, data.at(number), *given)
        if (number + 1) % data.batches == 0 or number + 1 == self.steps:
            projection.fuse(module, memory, self.beta)


def paired(first: Logits, second: Logits, correct: Mask, ranks: Ranks = ALONE) -> Tensor:
    """The mean divergence of the second answer from the first, over the examples whose first answer is correct.

    The examples are those of all processes: each takes its share of the sum.
    """
    return (divergence(first, second) * correct).sum() * ranks.size / ranks.total(correct.sum()).clamp(min=1)
