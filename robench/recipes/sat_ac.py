"""SAT with adversarial consistency, Madaan et al. 2021, table 3. https://proceedings.mlr.press/v139/madaan21a.html

`AdversarialTraining.train` in adversarial.py runs the loop and calls `train_step` on every batch.

robench train sat_ac --data mnist --threat linf:0.3 --threat l2:2 --threat l1:10 --out mnist-sat-ac
"""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
import torch.nn.functional as F

from ..errors import UserError
from ..problem.noise import normal
from ..problem.shapes import Inputs, Logits, PerExample
from ..problem.threats import L2, RTL2, Ball, ThreatModel
from ..settings import NonNegative
from .adversarial import AdversarialTraining, StepResult, TrainingStep
from .training import share_correct

SECOND_NOISE = 1  # key of the noise; the attack starts from noise 0, and this noise must be independent of it


@dataclass(frozen=True)
class AdversarialConsistency(AdversarialTraining):
    """SAT plus beta times the divergence among the predictions for an image, its attacked and its noisy version.

    The noise is standard normal, projected onto the ball of the sampled threat: MNG-AC without its generator, the
    middle row of the paper's ablation. Only the attacked image has a label loss (equation 7).

    Under rt, which has no ball, the noise is projected onto the l_2 ball; under rt-l2 onto its own.

    There is no published code for this row. Beta is from the code of MNG-AC; the paper gives none.
    """

    name: ClassVar[str] = "sat_ac"
    source: ClassVar[str] = (
        "SAT with adversarial consistency, Madaan et al. 2021, https://proceedings.mlr.press/v139/madaan21a.html"
    )
    beta: NonNegative = 12.0  # weight of the divergence

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        return ("transforms",)  # ten, as ever: cards of trainings without rt do not have it

    def check(self, threats: tuple[ThreatModel, ...]) -> None:
        super().check(threats)
        check_noise(self.name, threats)

    def train_step(self, step: TrainingStep) -> StepResult:
        threat = step.threats[int(step.noise * len(step.threats))]
        x_adv = self.images(step, threat)
        x = step.batch.x
        x_aug = x + noise_ball(threat, step.threats).project(normal(step.batch.keys, SECOND_NOISE, x), x)
        return consistent(step, x_adv, x_aug, self.beta)


def noise_ball(threat: ThreatModel, threats: tuple[ThreatModel, ...]) -> Ball:
    """The ball of the noise: that of the threat; under rt, which has none, that of the l_2 threat beside it."""
    if isinstance(threat, Ball):
        return threat
    if isinstance(threat, RTL2):
        return threat.ball
    return next(other for other in threats if isinstance(other, L2))


def check_noise(recipe: str, threats: tuple[ThreatModel, ...]) -> None:
    """Raises UserError if a threat has no ball for the noise."""
    without = [threat for threat in threats if not isinstance(threat, Ball | RTL2)]
    if without and not any(isinstance(threat, L2) for threat in threats):
        raise UserError(
            f"under {without[0]} the noise of {recipe} is projected onto an l2 ball; add one, like --threat l2:0.5"
        )


def consistent(step: TrainingStep, x_adv: Inputs, x_aug: Inputs, beta: float) -> StepResult:
    """Equation 7: the cross-entropy of the attacked images, plus beta times the divergence of equation 8.

    Batch-norm sees three separate batches, as in the code of MNG-AC.
    """
    module, batch = step.module, step.batch
    module.train()
    clean, augmented, attacked = module(batch.x), module(x_aug), module(x_adv)
    loss = F.cross_entropy(attacked, batch.y) + beta * jensen_shannon(clean, attacked, augmented).mean()
    return StepResult(loss, share_correct(attacked, batch.y))


def jensen_shannon(*logits: Logits) -> PerExample:
    """The mean Kullback-Leibler divergence of the predictions from their mean, row by row: equation 8."""
    logs = F.log_softmax(torch.stack(logits), dim=2)
    mean = logs.logsumexp(dim=0) - log(len(logits))  # log of the mean probabilities; logs need no floor at 0
    return (logs.exp() * (logs - mean)).sum(dim=2).mean(dim=0)
