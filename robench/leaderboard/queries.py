"""Accuracy against queries, in a bounded number of steps."""

from collections.abc import Iterator

from ..evidence.records import Evidence, Plan
from ..results.queries import Fall, falls
from .entries import QueryCurve

MAX_STEPS = 32  # of a curve: as many as a small picture can show, whatever the number of examples


def query_curves(plan: Plan, evidence: Evidence, threat: str) -> tuple[QueryCurve, ...]:
    """One curve for each planned attack that was tried, in plan order."""
    return tuple(_shortened(fall) for fall in falls(plan, evidence, threat))


def _shortened(fall: Fall) -> QueryCurve:
    """The curve with at most `MAX_STEPS` steps, nowhere above the exact one.

    The first and the last step stay. The others are joined in groups of nearly equal length, and each group begins at
    once with the accuracy at its end.
    """
    starts = list(_starts(len(fall.queries)))
    ends = [*starts[1:], len(fall.queries)]
    queries = tuple(fall.queries[start] for start in starts)
    return QueryCurve(fall.attack, queries, tuple(fall.standing[end - 1] for end in ends))


def _starts(steps: int) -> Iterator[int]:
    """The first step of each group: all of them if they are few."""
    if steps <= MAX_STEPS:
        yield from range(steps)
        return
    groups = MAX_STEPS - 2  # besides the first and the last step
    yield 0
    yield from (1 + group * (steps - 2) // groups for group in range(groups))
    yield steps - 1
