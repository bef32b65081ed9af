"""Accuracy by class."""

from collections.abc import Sequence

from ..results.outcomes import Outcome, union
from ..results.stats.shares import accuracy
from .entries import ClassResult


def class_results(labels: Sequence[int], rows: Sequence[str]) -> tuple[ClassResult, ...]:
    """The examples of each class, by label. `rows` hold a letter per example, one row per threat.

    As everywhere, open examples count as standing, and an example without an answer counts as correct.
    """
    places: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    found = []
    for label, own in sorted(places.items()):
        letters = ["".join(row[place] for place in own) for row in rows]
        wrong = letters[0].count(Outcome.WRONG)
        found.append(
            ClassResult(
                label=label,
                examples=len(own),
                clean=(len(own) - wrong) / len(own),
                threats=tuple(map(accuracy, letters)),
                union=accuracy(union(*letters)),
            )
        )
    return tuple(found)
