"""The cost of a protocol before it runs: queries of the model, and seconds at the model's measured rate."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch

from ..problem.classifier import Classifier, arithmetic
from ..search import targets
from . import AttackChoice, Protocol, ThreatChoice

ROWS = 64  # of a batch when the rate is measured
TIMED = 3  # timed passes, after one for warming up


@dataclass(frozen=True)
class Cost:
    """Queries for an example that no attack breaks; broken examples cost less."""

    gradients: int  # forward and backward passes
    forwards: int  # forward passes alone

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.gradients + other.gradients, self.forwards + other.forwards)

    def __str__(self) -> str:
        counts = ((self.gradients, "gradients"), (self.forwards, "forward passes"))
        return " and ".join(f"{count:,} {what}" for count, what in counts if count) or "nothing"


@dataclass(frozen=True)
class Rate:
    """Rows per second of the model on this machine."""

    gradients: float
    forwards: float

    def seconds(self, cost: Cost) -> float:
        """The duration of these queries, without the attacks' own arithmetic."""
        return cost.gradients / self.gradients + cost.forwards / self.forwards


def planned_items(choice: AttackChoice, classes: int) -> int:
    """The number of searches of an attack on each example that it cannot break."""
    return choice.restarts * max(1, min(choice.attack.targets, classes - 1))


def of_attack(threat: ThreatChoice, choice: AttackChoice, classes: int) -> Cost:
    """The cost of an attack with all its restarts and targets, and of the order of these targets."""
    queries = planned_items(choice, classes) * choice.attack.max_queries(threat.threat) * choice.attack.queries_per_step
    order = Cost(targets.gradients(choice.attack, classes), 0)
    return order + (Cost(queries, 0) if choice.attack.reads == "gradients" else Cost(0, queries))


@dataclass(frozen=True)
class CostRow:
    """One attack of a threat: its cost for an example that it does not break, and that of all attacks up to it."""

    label: str
    searches: int  # on each example
    cost: Cost
    total: Cost
    only: str  # the examples that it searches, in words; empty: all


def rows(threat: ThreatChoice, classes: int) -> list[CostRow]:
    """The attacks of a threat in their order, with running totals."""
    costs = [of_attack(threat, choice, classes) for choice in threat.attacks]
    return [
        CostRow(
            choice.label,
            planned_items(choice, classes),
            cost,
            total,
            only=_only(choice),
        )
        for choice, cost, total in zip(threat.attacks, costs, accumulate(costs), strict=True)
    ]


def _only(choice: AttackChoice) -> str:
    first = "" if choice.sample is None else f"{choice.sample:,} examples first"
    near = "" if choice.near is None else "near examples"
    return " and ".join(filter(None, (first, near)))


def of_protocol(protocol: Protocol, classes: int) -> Cost:
    """The cost of every attack under every threat."""
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

    def rate(query: Callable[[], None]) -> float:
        taken = []
        for _ in range(TIMED + 1):
            start = time.perf_counter()
            with arithmetic(x.device):
                query()
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            taken.append(time.perf_counter() - start)
        return rows / statistics.median(taken[1:])

    return Rate(rate(gradient), rate(forward))
