"""What a protocol costs before it is run: questions to the model, and seconds at the model's own rate."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..problem.classifier import Classifier, arithmetic
from . import AttackChoice, Protocol, ThreatChoice

ROWS = 64  # asked at once when the rate is measured
TIMED = 3  # passes, after one that does not count


@dataclass(frozen=True)
class Cost:
    """Questions about one example that stands to the end; one that falls costs less."""

    gradients: int  # forward and backward
    forwards: int  # forward alone

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.gradients + other.gradients, self.forwards + other.forwards)

    def __str__(self) -> str:
        told = ((self.gradients, "gradients"), (self.forwards, "forward passes"))
        return " and ".join(f"{count:,} {what}" for count, what in told if count) or "nothing"


@dataclass(frozen=True)
class Rate:
    """Rows per second through the model here."""

    gradients: float
    forwards: float

    def seconds(self, cost: Cost) -> float:
        """How long these questions take, the attacks' own arithmetic aside."""
        return cost.gradients / self.gradients + cost.forwards / self.forwards


def planned_items(choice: AttackChoice, classes: int) -> int:
    """How many searches an attack makes on each example it cannot break."""
    return choice.restarts * max(1, min(choice.attack.targets, classes - 1))


def of_attack(threat: ThreatChoice, choice: AttackChoice, classes: int) -> Cost:
    """An attack with all its restarts and targets."""
    questions = (
        planned_items(choice, classes) * choice.attack.max_queries(threat.threat) * choice.attack.queries_per_step
    )
    return Cost(questions, 0) if choice.attack.reads == "gradients" else Cost(0, questions)


def of_protocol(protocol: Protocol, classes: int) -> Cost:
    """Every attack under every threat."""
    every = (of_attack(threat, choice, classes) for threat in protocol.threats for choice in threat.attacks)
    return sum(every, start=Cost(0, 0))


def measured_rate(classifier: Classifier, rows: int = ROWS) -> Rate:
    """The rate in batches of grey images, in float32."""
    x = torch.full((rows, *classifier.shape), 0.5, device=classifier.device)

    def gradient() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(classifier(leaf).sum(), leaf)

    def forward() -> None:
        with torch.no_grad():
            classifier(x)

    def rate(ask: Callable[[], None]) -> float:
        taken = []
        for _ in range(TIMED + 1):
            begun = time.perf_counter()
            with arithmetic(x.device):
                ask()
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            taken.append(time.perf_counter() - begun)
        return rows / statistics.median(taken[1:])

    return Rate(rate(gradient), rate(forward))
