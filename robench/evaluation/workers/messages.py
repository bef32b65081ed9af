"""What driver and workers send each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from ...evidence.images import Image
from ...evidence.records import (
    Claim,
    Effort,
    Evidence,
    Exhausted,
    Failure,
    Plan,
    Probe,
    Verdict,
)
from ...problem.classifier import Classifier
from ...problem.split import Split
from ...protocols import Protocol
from ..model_source import ModelSource
from ..rounds import Part


@dataclass(frozen=True)
class Setup:
    """Everything that a worker needs before its first lease. It is sent once."""

    plan: Plan  # with its precision settled
    protocol: Protocol
    split: Split
    model: Classifier | ModelSource  # on the CPU; or how to load it, where it cannot be sent
    device: torch.device
    notes: dict[str, str] = field(default_factory=dict)  # about the model


@dataclass(frozen=True)
class Lease:
    """Examples that one worker searches with the attacks of one round, until it has finished them or is lost."""

    number: int
    steps: tuple[tuple[int, int], ...]  # places in the plan: of a threat, and of an attack under it
    part: Part
    examples: tuple[int, ...]
    evidence: Evidence  # about these examples, and what decides which of them an attack passes over


@dataclass
class Records:
    """Records of a worker, in the order in which it wrote them."""

    judged: list[tuple[Claim, Verdict, Image]] = field(default_factory=list)
    exhausted: list[Exhausted] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    efforts: list[Effort] = field(default_factory=list)  # seconds since the lease began
    probes: list[Probe] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there are none."""
        return not (self.judged or self.exhausted or self.failures or self.efforts or self.probes)


@dataclass(frozen=True)
class Ready:
    """The worker has its model, and waits for a lease."""


@dataclass(frozen=True)
class Report:
    """What a worker has found since its last report."""

    lease: int
    records: Records


@dataclass(frozen=True)
class Moved:
    """How far a worker has come with its lease."""

    lease: int
    attack: tuple[str, str]  # the threat and the label of the last attack that it began
    queries: int
    left: int


@dataclass(frozen=True)
class Finished:
    """Nothing is left to do for a lease. All its reports came before."""

    lease: int


@dataclass(frozen=True)
class Noted:
    """A note for the user."""

    text: str


@dataclass(frozen=True)
class Failed:
    """An error that ends the evaluation, as it would end one without workers."""

    text: str
    by_user: bool  # whether it is about invalid input, and no bug


@dataclass(frozen=True)
class Lost:
    """The worker has ended without an error of Python: it, or the process of its program, was killed or lost."""

    why: str


Message: TypeAlias = Ready | Report | Moved | Finished | Noted | Failed | Lost
Received: TypeAlias = Sequence[tuple[int, Message]]
"""Messages with the number of the worker that sent each."""
