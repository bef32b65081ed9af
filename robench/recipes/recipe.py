"""What every recipe is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from .. import settings
from ..problem.threats import ThreatModel
from ..settings import Count
from .training import Training, TrainingData


@dataclass(frozen=True)
class Recipe(ABC):
    """A way to train a module: a frozen dataclass of numbers, and a loop."""

    name: ClassVar[str]
    source: ClassVar[str]  # method, paper, link: the line of `robench list recipes`
    presets: ClassVar[dict[str, dict[str, Any]]]  # by data set, where its numbers differ from the defaults

    twice_differentiated: ClassVar[bool] = False  # it asks for gradients of gradients, which compiled code has not

    steps: Count  # of the optimiser
    batch: Count  # images per step
    augment: bool

    def __post_init__(self) -> None:
        """Raises UserError if a setting is out of range."""
        settings.check(self)

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
