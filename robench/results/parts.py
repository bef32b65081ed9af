"""Evidence that is read a part of the examples at a time, so that its size does not matter."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..evidence.records import Evidence, Plan

Places = NDArray[np.int32] | slice
"""Places in a plan."""


@runtime_checkable
class EvidenceSource(Protocol):
    """A source of evidence, such as a run file."""

    def shared(self) -> Evidence:
        """What concerns no single example: seconds, states of masking checks, and the environment."""

    def parts(self, examples: Sequence[int]) -> Iterator[tuple[slice, Evidence]]:
        """The rest in parts: which of these examples, in ascending order, and the evidence about them."""

    def evidence(self) -> Evidence:
        """Everything at once."""


@dataclass(frozen=True)
class Whole:
    """Evidence that is in memory already, as one part."""

    records: Evidence

    def shared(self) -> Evidence:
        """All of it."""
        return self.records

    def parts(self, examples: Sequence[int]) -> Iterator[tuple[slice, Evidence]]:
        """All of it, about all examples."""
        yield slice(0, len(examples)), self.records

    def evidence(self) -> Evidence:
        """All of it."""
        return self.records


@dataclass(frozen=True)
class Part:
    """Some examples of a plan, and the evidence about them."""

    plan: Plan  # with these examples alone
    places: Places  # theirs in the whole plan
    evidence: Evidence  # it may be about others too


def ascending(examples: Sequence[int]) -> tuple[Sequence[int], NDArray[np.int32] | None]:
    """The numbers in ascending order, and the place of each of these before; None where nothing has moved."""
    if all(one < other for one, other in pairwise(examples)):
        return examples, None
    order = np.argsort(np.fromiter(examples, np.int32, len(examples)), kind="stable").astype(np.int32)
    return tuple(examples[place] for place in order.tolist()), order


def parts_of(plan: Plan, source: EvidenceSource) -> Iterator[Part]:
    """All evidence in parts, each with the part of the plan that it is about."""
    if isinstance(source, Whole):  # the numbers need no order
        yield Part(plan, slice(0, len(plan.examples)), source.records)
        return
    numbers, order = ascending(plan.examples)
    for some, evidence in source.parts(numbers):
        places = some if order is None else order[some]
        yield Part(msgspec.structs.replace(plan, examples=tuple(numbers[some])), places, evidence)
