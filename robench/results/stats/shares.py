"""Accuracies and their intervals, from outcomes as letters of the summary file."""

from collections.abc import Sequence

import numpy as np

from ..outcomes import Outcome
from .intervals import Interval, average_of, together, wilson

BLOCK = 2**16  # examples whose letters are compared at a time


def accuracy(letters: str) -> float:
    """The share of all examples that are neither wrong nor broken: an upper bound while some are open."""
    return sum(letters.count(outcome) for outcome in (Outcome.STANDING, Outcome.OPEN)) / len(letters)


def interval(standing: int, still_open: int, n: int) -> Interval:
    """The interval of an accuracy, wide enough for every possible outcome of the open examples."""
    return _rounded(wilson(standing, n)[0], wilson(standing + still_open, n)[1])


def mean(rows: Sequence[str]) -> tuple[float, Interval]:
    """The mean accuracy over threats, at least one, and its interval."""
    n = len(rows[0])
    stand = may_stand = np.zeros((len(rows), len(rows)), np.int64)
    for first in range(0, n, BLOCK):
        some = [row[first : first + BLOCK].encode() for row in rows]  # every letter is one byte
        table = np.stack([np.frombuffer(letters, np.uint8) for letters in some])
        stands = table == ord(Outcome.STANDING.value)
        stand = stand + together(stands)
        may_stand = may_stand + together(stands | (table == ord(Outcome.OPEN.value)))
    return sum(map(accuracy, rows)) / len(rows), _rounded(average_of(stand, n)[0], average_of(may_stand, n)[1])


def _rounded(low: float, high: float) -> Interval:
    """The interval to six digits: far more than n supports, and the same on every machine."""
    return round(low, 6), round(high, 6)
