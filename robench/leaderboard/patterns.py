"""Outcome patterns: how many examples share the same outcomes under all threats of a table.

The counts hold everything that union, average and their intervals need, for every subset of the threats, so the page
recomputes them without a string per example. `static/board.js` has the same functions in the same order of operations;
tests compare the two with `results.outcomes` and `results.stats`. The same holds at smaller radii, where patterns of
levels take the place of patterns of outcomes.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..results.outcomes import union
from ..results.stats.intervals import Interval, wilson
from .entries import LEVELS

Patterns = Mapping[str, int]
"""Numbers of examples by pattern: a letter per threat, in the order of the table."""


class Recomputed(NamedTuple):
    """Union and average over a subset of the threats."""

    union: float
    union_ci95: Interval
    average: float
    average_ci95: Interval
    open: int  # examples whose outcome under the union is open


def count_patterns(rows: Sequence[str]) -> dict[str, int]:
    """The counts, by pattern in alphabetical order. `rows` hold a letter per example, one row per threat."""
    counts = Counter("".join(column) for column in zip(*rows, strict=True))
    return {pattern: counts[pattern] for pattern in sorted(counts)}


def recompute(patterns: Patterns, chosen: Sequence[int]) -> Recomputed:
    """Union and average over the threats at these places, at least one."""
    n = sum(patterns.values())
    worst = Counter[str]()
    for pattern, count in patterns.items():
        worst[union(*(pattern[place] for place in chosen))] += count
    total = 0.0
    for place in chosen:
        total += _count(patterns, place, "SO") / n
    return Recomputed(
        union=(worst["S"] + worst["O"]) / n,
        union_ci95=(wilson(worst["S"], n)[0], wilson(worst["S"] + worst["O"], n)[1]),
        average=total / len(chosen),
        average_ci95=(_average_end(patterns, chosen, "S", 0), _average_end(patterns, chosen, "SO", 1)),
        open=worst["O"],
    )


def at_levels(patterns: Patterns, levels: Sequence[int]) -> dict[str, int]:
    """The outcomes at smaller radii: patterns of levels in, patterns of outcomes out, in alphabetical order.

    `levels` has a number from 0 to 20 per threat: the radius in twentieths of the whole. A threat without levels has
    outcomes in the patterns, which hold at its whole radius, and its number makes no difference.
    """
    counts = Counter[str]()
    for pattern, count in patterns.items():
        counts["".join(_at_level(letter, level) for letter, level in zip(pattern, levels, strict=True))] += count
    return {pattern: counts[pattern] for pattern in sorted(counts)}


def standing_by_level(letters: str) -> list[int]:
    """The examples not known to break at the levels 0 to 20, from a letter of `LEVELS`, or W, S or O, per example."""
    standing, found = sum(letters.count(letter) for letter in f"SO{LEVELS}"), []
    for letter in LEVELS:
        standing -= letters.count(letter)
        found.append(standing)
    return found


def _at_level(letter: str, level: int) -> str:
    """An example that breaks at a level of at most this one is broken; at a higher one it stands."""
    if letter not in LEVELS:
        return letter
    return "B" if LEVELS.index(letter) <= level else "S"


def _count(patterns: Patterns, place: int, letters: str) -> int:
    return sum(count for pattern, count in patterns.items() if pattern[place] in letters)


def _average_end(patterns: Patterns, chosen: Sequence[int], letters: str, end: int) -> float:
    """One end of the interval of `stats.intervals.average`, from counts of pairs instead of examples."""
    n = sum(patterns.values())
    counts = [_count(patterns, place, letters) for place in chosen]
    distances = [abs(count / n - wilson(count, n)[end]) for count in counts]
    spread = 0.0
    for i, one in enumerate(chosen):
        for j, other in enumerate(chosen):
            both = sum(count for p, count in patterns.items() if p[one] in letters and p[other] in letters)
            spread += distances[i] * distances[j] * _correlation(counts[i], counts[j], both, n)
    half = math.sqrt(max(0.0, spread)) / len(chosen)
    middle = sum(count / n for count in counts) / len(chosen)
    return min(1.0, middle + half) if end else max(0.0, middle - half)


def _correlation(one: int, other: int, both: int, n: int) -> float:
    """The correlation of two columns of 0 and 1; 1 where one of them is constant, as in `stats.intervals.average`."""
    scale = one * (n - one) * other * (n - other)
    if not scale:
        return 1.0
    value = (n * both - one * other) / math.sqrt(scale)
    return value * n**2 / (n**2 + 1) if value < 0 else value
