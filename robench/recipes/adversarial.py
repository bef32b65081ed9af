"""What every adversarial training shares: its numbers, its schedule, and the images that it trains on."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..problem.shapes import Inputs, Labels, PerExample
from ..problem.threats import RT, Ball, ThreatModel
from ..search.attack import Batch, GradientAttack, State, unroll
from ..search.attacks.pgd import PGD
from ..search.attacks.slide import SLIDE
from ..search.attacks.spatial import random_transforms, transformed
from .recipe import Recipe
from .training import Training, TrainingData, share_correct

WARMUP_DIVISOR = 3  # so many times smaller are the threats at first


class TrainingStep(NamedTuple):
    """One step: the batch, and the threats at the size they have by then."""

    module: nn.Module
    batch: Batch
    threats: tuple[ThreatModel, ...]
    noise: float  # uniform in [0, 1), the step's own
    memory: dict[str, Tensor]  # what a recipe keeps from step to step; saved with the state


class StepResult(NamedTuple):
    """What a step goes down, and the share of its adversarial images that were classified right."""

    loss: Tensor
    accuracy: float


@dataclass(frozen=True)
class AdversarialTraining(Recipe):
    """Training on adversarial images. Numbers as in Tramèr and Boneh's MNIST configuration (`config.json`).

    Except that the inner steps are Madry's 2.5 radii in all: theirs, ten of 0.01 from a random start, reach
    a third of the radius 0.3. The first tenth of the training is at a third of every radius, as theirs is.
    """

    attacked: ClassVar[tuple[str, ...]] = (*PGD.threats, "rt")
    several: ClassVar[bool] = True  # it is for two threats or more
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "digits": {"steps": 2000, "batch": 64},
        "cifar10": {"steps": 11700, "batch": 128, "augment": True},
    }
    max_one: ClassVar[tuple[str, ...]] = ("warmup",)
    may_be_zero: ClassVar[tuple[str, ...]] = ("warmup",)

    steps: int = 6000
    batch: int = 100
    lr: float = 1e-3
    inner_steps: int = 10
    inner_step_size: float = 0.25  # in radii
    warmup: float = 0.1  # the share of the training that is done at a third of the radius
    augment: bool = False
    transforms: int = 10  # of rotations and translations: so many are tried on each image, and the worst is taken
    # The adversary's passes in train mode, where they move the batch-norm statistics, as in the code of Madry et al.
    # and of MNG-AC (P-31). Left out of `repr`, and so of the identity, where it is as it was before it came.
    bn_train_attack: bool = field(default=False, repr=False)

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        return () if "rt" in cls.attacked else ("transforms",)

    @abstractmethod
    def train_step(self, step: TrainingStep) -> StepResult:
        """The loss of one step. The module comes in the adversary's mode; what it learns from is in train mode."""

    def check(self, threats: tuple[ThreatModel, ...]) -> None:
        if self.several and len(threats) < 2:
            raise UserError(f"{self.name} trains against two threats or more; for one take the recipe pgd_at")
        if not self.several and len(threats) != 1:
            raise UserError(f"{self.name} trains against one threat; give it one, like --threat {self._example}")
        for threat in threats:
            if threat.name not in self.attacked:
                raise UserError(f"{self.name} cannot train against {threat}; it can against {', '.join(self.attacked)}")

    @property
    def _example(self) -> str:
        return "rt:3px,30deg" if self.attacked == ("rt",) else "linf:0.3"

    def train(self, training: Training, data: TrainingData, threats: tuple[ThreatModel, ...]) -> None:
        early = tuple(map(warmup_threat, threats))
        for number in training.steps(self.steps):
            against = early if number < self.warmup * self.steps else threats
            training.module.train(self.bn_train_attack)
            step = TrainingStep(training.module, data.at(number), against, data.noise(number), training.memory)
            result = self.train_step(step)
            training.down(result.loss, lr=self.lr if number < self.steps / 2 else self.lr / 10)
            training.report.step(number + 1, self.steps, result.loss.item(), result.accuracy)

    def inner_attack(self, threat: ThreatModel) -> GradientAttack[Ball, State]:
        """PGD; under l_1 SLIDE, as in Tramèr and Boneh: one coordinate at a time is too weak a teacher."""
        kind = SLIDE if threat.name == "l1" else PGD
        return kind(steps=self.inner_steps, step_size=self.inner_step_size, loss="cross-entropy")

    def images(self, step: TrainingStep, threat: ThreatModel) -> Inputs:
        """What the adversary makes of the batch."""
        if isinstance(threat, RT):
            return self._worst_transform(step, threat)
        assert isinstance(threat, Ball), "check() has seen it"
        return step.batch.x + unroll(step.module, threat, self.inner_attack(threat), step.batch).delta

    def _worst_transform(self, step: TrainingStep, threat: RT) -> Inputs:
        """Of some random poses of each image, the one with the highest loss: Engstrom et al. 2019, worst of k."""
        batch = step.batch
        first = torch.zeros_like(batch.y)
        candidates = transformed(threat, batch.x, random_transforms(threat, batch, first, self.transforms))
        return highest(step.module, candidates, batch.y)


def highest(module: nn.Module, candidates: Tensor, y: Labels) -> Inputs:
    """Of (B, W, *D) images those (B, *D) with the highest cross-entropy."""
    loss = losses(module, candidates.flatten(0, 1), y.repeat_interleave(candidates.shape[1])).view(len(y), -1)
    return candidates[torch.arange(len(y), device=y.device), loss.argmax(dim=1)]


def losses(module: nn.Module, x: Inputs, y: Labels) -> PerExample:
    """The cross-entropy of every image, without a gradient."""
    with torch.no_grad():
        return F.cross_entropy(module(x), y, reduction="none")


def cross_entropy_step(module: nn.Module, x: Inputs, y: Labels) -> StepResult:
    """Cross-entropy of these images, in train mode."""
    module.train()
    logits = module(x)
    return StepResult(F.cross_entropy(logits, y), share_correct(logits, y))


def warmup_threat(threat: ThreatModel) -> ThreatModel:
    """A third of it."""
    if isinstance(threat, RT):
        return replace(threat, pixels=threat.pixels / WARMUP_DIVISOR, degrees=threat.degrees / WARMUP_DIVISOR)
    assert isinstance(threat, Ball), "check() has seen it"
    return replace(threat, radius=threat.radius / WARMUP_DIVISOR)
