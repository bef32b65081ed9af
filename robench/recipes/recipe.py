"""The interface of recipes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from .. import settings
from ..problem.threats import ThreatModel
from ..settings import Count
from .training import Training, TrainingData


@dataclass(frozen=True)
class Recipe(ABC):
    """A training method: a frozen dataclass of settings, and a training loop."""

    name: ClassVar[str]
    source: ClassVar[str]  # method, paper, link: the line of `robench list recipes`
    presets: ClassVar[dict[str, dict[str, Any]]]  # settings by data set, if they differ from the defaults

    twice_differentiated: ClassVar[bool] = False  # it needs second derivatives, which compiled code does not support

    steps: Count  # of the optimiser
    batch: Count  # images per step
    augment: bool

    def __post_init__(self) -> None:
        """Raises UserError if a setting is out of range."""
        settings.check(self)

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
