"""The base of adversarial trainings: settings, training loop, and adversarial images."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..problem.shapes import Inputs, Labels, PerExample
from ..problem.threats import RT, RTL2, Ball, ThreatModel
from ..search.attack import Batch, GradientAttack, State, unroll
from ..search.attacks.apgd_l1 import large_radius_stages
from ..search.attacks.pgd import PGD
from ..search.attacks.slide import SLIDE
from ..search.attacks.spatial import random_transforms, transformed
from ..settings import Count, Positive, Share
from .ascent import ascend, ascend_in_stages
from .data_parallel import ALONE, Ranks
from .euclidean import EuclideanPGD
from .recipe import Recipe
from .training import Training, TrainingData, share_correct

B = TypeVar("B", bound=Ball)

WARMUP_DIVISOR = 3  # the threats of the warm-up are smaller by this factor


class TrainingStep(NamedTuple):
    """The input of a step: the batch, and the threats at their current size."""

    module: nn.Module
    batch: Batch
    threats: tuple[ThreatModel, ...]
    noise: float  # uniform in [0, 1), different for every step
    memory: dict[str, Tensor]  # tensors that a recipe carries from step to step; saved with the training state
    rate: float = 1.0  # the learning rate of the step, as a share of the highest
    ranks: Ranks = ALONE  # the processes that share the batch


class StepResult(NamedTuple):
    """The loss of a step to minimise, and the accuracy on its adversarial images."""

    loss: Tensor
    accuracy: float


@dataclass(frozen=True)
class AdversarialTraining(Recipe):
    """Training on adversarial images, with the numbers of Tramèr and Boneh's MNIST configuration (`config.json`).

    One exception: the inner steps add up to 2.5 radii, Madry's rule; theirs, ten of 0.01 from a random start, reach a
    third of the radius 0.3. The first tenth of the training uses a third of every radius, as theirs does.

    A subclass defines `train_step`, the loss of a batch; `train` is the loop.
    """

    attacked: ClassVar[tuple[str, ...]] = (*PGD.threats, "rt", "rt-l2")
    several: ClassVar[bool] = True  # it needs two threats or more
    own_attack: ClassVar[bool] = False  # its images are those of one attack, whatever `inner_attack` is
    divisible: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "digits": {"steps": 2000, "batch": 64},
        "cifar10": {"steps": 11700, "batch": 128, "augment": True},
        "svhn": {"steps": 17160, "batch": 128},
        "tiny-imagenet": {"steps": 23430, "batch": 128, "augment": True},
    }

    steps: Count = 6000
    batch: Count = 100
    lr: Positive = 1e-3
    inner_steps: Count = 10
    inner_step_size: Positive = 0.25  # in radii
    warmup: Share = 0.1  # share of the training at a third of the radius
    augment: bool = False
    transforms: Count = 10  # random rotations and translations per image, of which the worst is used
    # Run the attack in train mode, so that it updates batch-norm statistics, as in the code of Madry et al. and of
    # MNG-AC (P-31). Not in `repr`, so that the identity of older trainings stays as it was.
    bn_train_attack: bool = field(default=False, repr=False)
    # "staged-apgd" begins beyond the ball under l_2 and l_1.
    inner_attack: Literal["pgd", "apgd", "staged-apgd"] = field(default="pgd", repr=False)
    # Under l_1 "pgd" takes the steps of SLIDE, or with "euclidean" steps along the gradient.
    l1_steps: Literal["sparse", "euclidean"] = field(default="sparse", repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_attack != "pgd":
            adapts = f"with inner_attack={self.inner_attack}, which adapts its steps"
            self._refuse_changed(("inner_step_size", "l1_steps"), adapts)
        if self.inner_attack == "staged-apgd" and len(large_radius_stages(self.inner_steps)) == 1:
            raise UserError(
                f"staged-apgd needs inner_steps=10 or more, not {self.inner_steps}; with fewer, use inner_attack=apgd"
            )

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        return (*(() if "rt" in cls.attacked else ("transforms",)), *(("inner_attack",) if cls.own_attack else ()))

    @abstractmethod
    def train_step(self, step: TrainingStep) -> StepResult:
        """The loss of one step. The module arrives in the mode of the attack; the loss needs train mode."""

    def check(self, threats: tuple[ThreatModel, ...]) -> None:
        if self.several and len(threats) < 2:
            raise UserError(f"{self.name} trains against two threats or more; for one threat take the recipe pgd_at")
        if not self.several and len(threats) != 1:
            raise UserError(f"{self.name} trains against one threat; give it one, like --threat {self._example}")
        for threat in threats:
            if threat.name not in self.attacked:
                raise UserError(f"{self.name} cannot train against {threat}; it can against {', '.join(self.attacked)}")
        if not any(isinstance(threat, RT | RTL2) for threat in threats):
            self._refuse_changed(("transforms",), "without --threat rt:... or rt-l2:...")
        if not any(isinstance(threat, Ball) for threat in threats):
            self._refuse_changed(("inner_attack", "inner_steps", "inner_step_size"), "under transforms alone")
        if not any(isinstance(threat, Ball) and threat.sparse_steps for threat in threats):
            self._refuse_changed(("l1_steps",), "without --threat l1:...")

    def _refuse_changed(self, names: tuple[str, ...], where: str) -> None:
        """Raises UserError if one of these settings is not the default, as it has no effect here."""
        for name in names:
            if (value := getattr(self, name)) != getattr(type(self), name):
                raise UserError(f"{name}={value} has no effect {where}; leave it out")

    @property
    def _example(self) -> str:
        return "rt:3px,30deg" if self.attacked[0] == "rt" else "linf:0.3"

    def train(self, training: Training, data: TrainingData, threats: tuple[ThreatModel, ...]) -> None:
        early = tuple(map(warmup_threat, threats))
        for number in training.steps(self.steps):
            against = early if number < self.warmup * self.steps else threats
            training.module.train(self.bn_train_attack)
            noise, lr = data.noise(number), self.rate(number)
            given = (training.module, data.at(number), against, noise, training.memory, lr / self.lr, training.ranks)
            step = TrainingStep(*given)
            result = self.train_step(step)
            training.down(result.loss, lr=lr)
            self.after_step(training, data, number)
            training.report.step(number + 1, self.steps, result.loss.item(), result.accuracy)

    def after_step(self, training: Training, data: TrainingData, number: int) -> None:
        """What a recipe does to the network after the optimiser's step."""

    def pgd(self, threat: ThreatModel) -> GradientAttack[Ball, State]:
        """PGD on a training batch, but under l_1 SLIDE, as in Tramèr and Boneh, or Euclidean steps."""
        kind: type[PGD | SLIDE] = PGD
        if isinstance(threat, Ball) and threat.sparse_steps:
            kind = SLIDE if self.l1_steps == "sparse" else EuclideanPGD
        return kind(steps=self.inner_steps, step_size=self.inner_step_size, loss="cross-entropy")

    def images(self, step: TrainingStep, threat: ThreatModel) -> Inputs:
        """The adversarial images of the batch."""
        if isinstance(threat, RT | RTL2):
            return self._worst_transform(step, threat)
        assert isinstance(threat, Ball), "see check()"
        if self.inner_attack != "pgd":
            attack = ascend if self.inner_attack == "apgd" else ascend_in_stages
            return attack(step.module, step.batch, threat, self.inner_steps).x_adv
        return step.batch.x + unroll(step.module, threat, self.pgd(threat), step.batch).delta

    def _worst_transform(self, step: TrainingStep, threat: RT | RTL2) -> Inputs:
        """The random transform of each image with the highest loss: worst of k, Engstrom et al. 2019."""
        return highest(step.module, self.transformed(step.batch, threat), step.batch.y)

    def transformed(self, batch: Batch, threat: RT | RTL2) -> Tensor:
        """Random transforms of each image: (B, `transforms`, *D)."""
        return transformed(
            threat, batch.x, random_transforms(threat, batch, torch.zeros_like(batch.y), self.transforms)
        )


def highest(module: nn.Module, candidates: Tensor, y: Labels) -> Inputs:
    """The image with the highest cross-entropy of each row: (B, *D) of (B, W, *D)."""
    loss = losses(module, candidates.flatten(0, 1), y.repeat_interleave(candidates.shape[1])).view(len(y), -1)
    return candidates[torch.arange(len(y), device=y.device), loss.argmax(dim=1)]


def losses(module: nn.Module, x: Inputs, y: Labels) -> PerExample:
    """The cross-entropy of every image, without gradient."""
    with torch.no_grad():
        return F.cross_entropy(module(x), y, reduction="none")


def cross_entropy_step(module: nn.Module, x: Inputs, y: Labels) -> StepResult:
    """The mean cross-entropy of these images, in train mode."""
    module.train()
    logits = module(x)
    return StepResult(F.cross_entropy(logits, y), share_correct(logits, y))


def warmup_threat(threat: ThreatModel) -> ThreatModel:
    """The threat at a third of its size."""
    if isinstance(threat, RTL2):
        return replace(threat, rt=_smaller_transforms(threat.rt), ball=_smaller_ball(threat.ball))
    if isinstance(threat, RT):
        return _smaller_transforms(threat)
    assert isinstance(threat, Ball), "see check()"
    return _smaller_ball(threat)


def _smaller_transforms(rt: RT) -> RT:
    return replace(rt, pixels=rt.pixels / WARMUP_DIVISOR, degrees=rt.degrees / WARMUP_DIVISOR)


def _smaller_ball(ball: B) -> B:
    return replace(ball, radius=ball.radius / WARMUP_DIVISOR)
