"""Accuracies and their intervals, from outcomes as letters of the summary file."""

from collections.abc import Sequence

import numpy as np

from ..outcomes import Outcome
from .intervals import Interval, average, wilson


def accuracy(letters: str) -> float:
    """The share of all examples that are neither wrong nor broken: an upper bound while some are open."""
    return sum(letters.count(outcome) for outcome in (Outcome.STANDING, Outcome.OPEN)) / len(letters)


def interval(standing: int, still_open: int, n: int) -> Interval:
    """The interval of an accuracy, wide enough for every possible outcome of the open examples."""
    return _rounded(wilson(standing, n)[0], wilson(standing + still_open, n)[1])


def mean(rows: Sequence[str]) -> tuple[float, Interval]:
    """The mean accuracy over threats, at least one, and its interval."""
    table = np.stack([np.frombuffer(row.encode(), np.uint8) for row in rows])  # every letter is one byte
    stands = table == ord(Outcome.STANDING.value)
    may_stand = stands | (table == ord(Outcome.OPEN.value))
    return sum(map(accuracy, rows)) / len(rows), _rounded(average(stands)[0], average(may_stand)[1])


def _rounded(low: float, high: float) -> Interval:
    """The interval to six digits: far more than n supports, and the same on every machine."""
    return round(low, 6), round(high, 6)
