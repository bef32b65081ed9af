"""SAT with adversarial consistency, Madaan et al. 2021, table 3. https://proceedings.mlr.press/v139/madaan21a.html

robench train sat_ac --data mnist --threat linf:0.3 --threat l2:2 --threat l1:10 --out mnist-sat-ac
"""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
import torch.nn.functional as F

from ..problem.noise import normal
from ..problem.shapes import Inputs, Logits, PerExample
from ..problem.threats import Ball
from ..search.attacks.pgd import PGD
from ..settings import NonNegative
from .adversarial import AdversarialTraining, StepResult, TrainingStep
from .training import share_correct

SECOND_NOISE = 1  # the draw; the attack starts from draw 0, and what is compared with its end is to be independent


@dataclass(frozen=True)
class AdversarialConsistency(AdversarialTraining):
    """SAT, and beta times the divergence among the answers to an image, its attacked and its noisy version.

    The noise is standard normal, projected onto the ball of the threat that was drawn: MNG-AC without its generator,
    the middle row of the paper's ablation. Only the attacked image has a label loss (equation 7).

    There is no published code for this row. Beta is that of the code of MNG-AC; the paper gives none.
    """

    name: ClassVar[str] = "sat_ac"
    source: ClassVar[str] = (
        "SAT with adversarial consistency, Madaan et al. 2021, https://proceedings.mlr.press/v139/madaan21a.html"
    )
    attacked: ClassVar[tuple[str, ...]] = PGD.threats

    beta: NonNegative = 12.0  # of the divergence

    def train_step(self, step: TrainingStep) -> StepResult:
        threat = step.threats[int(step.noise * len(step.threats))]
        assert isinstance(threat, Ball), "check() has seen it"
        x_adv = self.images(step, threat)
        x = step.batch.x
        x_aug = x + threat.project(normal(step.batch.keys, SECOND_NOISE, x), x)
        return consistent(step, x_adv, x_aug, self.beta)


def consistent(step: TrainingStep, x_adv: Inputs, x_aug: Inputs, beta: float) -> StepResult:
    """Equation 7: cross-entropy of the attacked images, and beta times the divergence of equation 8.

    Each of the three is a batch of its own to batch-norm, as in the code of MNG-AC.
    """
    module, batch = step.module, step.batch
    module.train()
    clean, augmented, attacked = module(batch.x), module(x_aug), module(x_adv)
    loss = F.cross_entropy(attacked, batch.y) + beta * jensen_shannon(clean, attacked, augmented).mean()
    return StepResult(loss, share_correct(attacked, batch.y))


def jensen_shannon(*answers: Logits) -> PerExample:
    """The mean of Kullback and Leibler's divergences of the answers from their middle, row by row: equation 8."""
    logs = F.log_softmax(torch.stack(answers), dim=2)
    middle = logs.logsumexp(dim=0) - log(len(answers))  # of probabilities; in logs no 0 needs a floor
    return (logs.exp() * (logs - middle)).sum(dim=2).mean(dim=0)
