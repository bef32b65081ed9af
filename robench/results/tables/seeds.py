"""Rows that combine runs which differ only in their seed: mean and standard deviation.

The seed may be that of the search, with the same weights, or that of the training, according to the models' cards.
Everything else, from the recipe's settings to the examples, is the same.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import fmean, stdev
from typing import NamedTuple

from ..summary import Summary


@dataclass(frozen=True)
class PublishedClaim:
    """Numbers that were published for one set of threats, as fractions by column: clean, a threat, union, average."""

    source: str
    threats: frozenset[str]
    accuracy: Mapping[str, float]


@dataclass(frozen=True)
class Origin:
    """The origin of a model, from its card."""

    threats: tuple[str, ...] = ()  # on which it was trained
    hours: float | None = None
    method: str = ""  # everything that determines the weights except the seed; empty if the card lacks it
    seed: int | None = None
    claims: tuple[PublishedClaim, ...] = ()  # published for models of the same kind


Origins = Mapping[str, Origin]
"""Origins by the name of the model."""


@dataclass(frozen=True)
class Row:
    """One run, or several that differ only in their seed."""

    name: str
    runs: tuple[Summary, ...]
    of: str = ""  # whose seeds differ: the search's or the training's


def rows(summaries: Sequence[Summary], origins: Origins) -> list[Row]:
    """Rows in the order of their first runs. All summaries answer one question. Equal seeds are not combined."""
    found: dict[int, Row] = {}
    left = dict(enumerate(summaries))
    for of, key, seed in (_training(origins), _search()):
        groups: dict[Hashable, list[int]] = {}
        for place, summary in left.items():
            groups.setdefault(key(summary) or place, []).append(place)
        for places in groups.values():
            runs = tuple(left[place] for place in places)
            if len(runs) > 1 and len({seed(run) for run in runs}) == len(runs):
                found[places[0]] = Row(f"{_common([run.model.name for run in runs])} ({len(runs)} seeds)", runs, of)
                left = {place: summary for place, summary in left.items() if place not in places}
    for (place, summary), name in zip(left.items(), names(list(left.values())), strict=True):
        found[place] = Row(name, (summary,))
    return [found[place] for place in sorted(found)]


def names(summaries: Sequence[Summary]) -> list[str]:
    """The names of the models; for equal names with what distinguishes them: weights, or the seed of the search."""
    models = Counter(s.model.name for s in summaries)
    weights = {name: {s.model.weights_sha256 for s in summaries if s.model.name == name} for name in models}
    seeds = {name: {s.seed for s in summaries if s.model.name == name} for name in models}

    def distinct(summary: Summary) -> str:
        name = summary.model.name
        more = [summary.model.weights_sha256[:8]] if len(weights[name]) > 1 else []
        more += [f"seed {summary.seed}"] if len(seeds[name]) > 1 else []
        return f"{name} ({', '.join(more)})" if more else name

    return [distinct(summary) for summary in summaries]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; 0 for a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


class _Kind(NamedTuple):
    """How runs are recognised as trials of one thing: by an equal key and different seeds."""

    of: str
    key: Callable[[Summary], Hashable]
    seed: Callable[[Summary], int | None]


def _training(origins: Origins) -> _Kind:
    def origin(summary: Summary) -> Origin:
        return origins.get(summary.model.name, Origin())

    def key(summary: Summary) -> Hashable:
        made = origin(summary)
        return made.method if made.seed is not None else ""

    return _Kind("training", key, lambda summary: origin(summary).seed)


def _search() -> _Kind:
    return _Kind("search", lambda s: (s.model.name, s.model.weights_sha256), lambda s: s.seed)


def _common(names: Sequence[str]) -> str:
    """`adv-linf` of adv-linf-s0 and adv-linf-s1."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    start = "".join(letters[0] for letters in alike)
    if start == names[0]:
        return start
    return re.sub(r"[-_.]?(seed|s)?[-_.]?\d*$", "", start) or names[0]
