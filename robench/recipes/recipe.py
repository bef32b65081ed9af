"""The interface of recipes."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import settings
from ..errors import UserError
from ..problem.threats import RT, ThreatModel, parse
from ..settings import Bounds, Count, NonNegative, Positive
from .augmentation import Augmentation
from .schedule import RateSchedule, rate
from .training import Training, TrainingData


@dataclass(frozen=True)
class Recipe(ABC):
    """A training method: a frozen dataclass of settings, and a training loop."""

    name: ClassVar[str]
    source: ClassVar[str]  # method, paper, link: the line of `robench list recipes`
    presets: ClassVar[dict[str, dict[str, Any]]]  # settings by data set, if they differ from the defaults

    twice_differentiated: ClassVar[bool] = False  # it needs second derivatives, which compiled code does not support
    self_training: ClassVar[bool] = False  # it needs pseudo-labelled images
    divisible: ClassVar[bool] = False  # its loss is a mean over the batch, so several processes can take parts of it

    steps: Count  # of the optimiser
    batch: Count  # images per step
    augment: bool
    lr: Positive  # the highest learning rate

    # Not in `repr`, so that the identity of older trainings stays as it was.
    augment_rt: str = field(default="none", repr=False)  # rt:1px,10deg: augment by transforms in these limits
    optimiser: Literal["adam", "sgd"] = field(default="adam", repr=False)
    schedule: RateSchedule = field(default="step", repr=False)  # of the learning rate
    momentum: Annotated[float, Bounds(0, below=1)] = field(default=0.9, repr=False)  # of SGD
    weight_decay: NonNegative = field(default=0.0, repr=False)  # times the weights, added to their gradient
    decay_all: bool = field(default=True, repr=False)  # false: kernels and matrices only, not biases and batch-norm
    clip: NonNegative = field(default=0.0, repr=False)  # the gradient's Euclidean length is at most this; 0: any length
    # 0.995: the model is the average over the steps, each with this share of the weight of the next; 0: no average
    weight_average: Annotated[float, Bounds(0, below=1)] = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        """Raises UserError if a setting is out of range, or has no effect beside the others."""
        settings.check(self)
        if self.optimiser == "adam" and self.momentum != Recipe.momentum:
            raise UserError(f"momentum={self.momentum} is a setting of SGD; add --set optimiser=sgd")
        if not self.decay_all and not self.weight_decay:
            raise UserError("decay_all=False has no effect without weight decay; add --set weight_decay=0.0002")
        object.__setattr__(self, "augment_rt", str(self.augmentation().rt or "none"))  # one spelling: cards name it

    def augmentation(self) -> Augmentation:
        """What the settings say about random changes of the training images."""
        if self.augment_rt == "none":
            return Augmentation(self.augment)
        rt = parse(self.augment_rt) if self.augment_rt.startswith("rt:") else None
        if not isinstance(rt, RT) or rt.padding:
            raise UserError(
                f"augment_rt={self.augment_rt} is no shift and rotation; write it like rt:1px,10deg, or none"
            )
        return Augmentation(self.augment, rt)

    def optimiser_for(self, weights: Iterable[Tensor]) -> Optimizer:
        """The optimiser of these weights; `rate` gives its learning rate at each step."""
        weights = [*weights]
        groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": self.weight_decay}]
        if not self.decay_all:
            groups[0]["params"] = [weight for weight in weights if weight.ndim > 1]
            groups.append({"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0})
        if self.optimiser == "sgd":
            return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)
        return torch.optim.Adam(groups, lr=self.lr)

    def rate(self, step: int) -> float:
        """The learning rate of step number `step`, from 0."""
        return rate(self.schedule, self.lr, step, self.steps)

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        """Inherited settings that this recipe does not use: it rejects them, and cards do not list them."""
        return ()

    @abstractmethod
    def check(self, threats: tuple[ThreatModel, ...]) -> None:
        """Raises UserError if it cannot train against these threats."""

    @abstractmethod
    def train(self, training: Training, data: TrainingData, threats: tuple[ThreatModel, ...]) -> None:
        """Runs the loop, from the current step of `training` to the end."""
