"""What every recipe is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..problem.threats import ThreatModel
from .training import Training, TrainingData


@dataclass(frozen=True)
class Recipe(ABC):
    """A way to train a module: a frozen dataclass of numbers, and a loop."""

    name: ClassVar[str]
    source: ClassVar[str]  # method, paper, link: the line of `robench list recipes`
    presets: ClassVar[dict[str, dict[str, Any]]]  # by data set, where its numbers differ from the defaults

    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # by setting, where it is one of a few names
    max_one: ClassVar[tuple[str, ...]] = ()  # settings that are at most 1
    may_be_zero: ClassVar[tuple[str, ...]] = ()  # all others are above 0
    twice_differentiated: ClassVar[bool] = False  # it asks for gradients of gradients, which compiled code has not

    steps: int  # of the optimiser
    batch: int  # images per step
    augment: bool

    @classmethod
    def unused(cls) -> tuple[str, ...]:
        """Settings of its family that change nothing here: they are not taken, and no card tells of them."""
        return ()

    @abstractmethod
    def check(self, threats: tuple[ThreatModel, ...]) -> None:
        """Raises UserError when it cannot train against these threats."""

    @abstractmethod
    def train(self, training: Training, data: TrainingData, threats: tuple[ThreatModel, ...]) -> None:
        """The loop, from where `training` stands to its end."""
