"""The history of a row: which run set its numbers, which lowered them, and when.

An example is broken by the first run that holds an accepted image of it. So the order of runs decides on credit and on
nothing else: the last entry has the numbers of the row, whatever the order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from ..evidence.records import Evidence, Plan
from ..results.outcomes import Outcome, outcomes, union
from ..results.stats.shares import accuracy
from .entries import HistoryEntry

UNION = "union"
LATEST = "9999-12-31T23:59:59Z"
_LOST = frozenset({Outcome.WRONG.value, Outcome.BROKEN.value})


@dataclass(frozen=True)
class Source:
    """The origin of a run."""

    name: str  # the protocol of a run of the board, or the name of a submission
    by: str = ""  # who submitted it
    submitted: bool = False  # false: a run of the board
    date: str = ""  # of the run; empty if it holds none
    content: str = ""  # a hash, which orders runs of one date


def in_order(sources: Sequence[Source]) -> list[int]:
    """The places of these sources in the order in which they take credit.

    By date; of one date runs of the board first, then by content. Runs of the board without a date come first,
    submissions without one last. A submission is never before the first run of the board.
    """
    board = min((s.date for s in sources if not s.submitted), default="")

    def key(place: int) -> tuple[str, bool, str]:
        source = sources[place]
        date = max(source.date or LATEST, board) if source.submitted else source.date
        return date, source.submitted, source.content

    return sorted(range(len(sources)), key=key)


def history(
    plan: Plan, everything: Evidence, runs: Iterable[tuple[Source, Evidence, bool]]
) -> tuple[HistoryEntry, ...]:
    """An entry for the run that set the numbers of a row, and for each that lowered one.

    `plan` has the threats in the order of the table, and `everything` is all evidence of the model. Each of the `runs`
    is marked if it answers the question of the row: the first of those comes first.
    """
    runs = list(runs)
    order = in_order([source for source, _, _ in runs])
    first = next((place for place in order if runs[place][2]), order[0])
    order.remove(first)
    threats = [t.threat for t in plan.threats]
    # What the model answers before any attack is known from the start, so that only attacks lower a number.
    bare = msgspec.structs.replace(everything, claims=(), verdicts=(), exhausted=())
    letters = [outcomes(plan, bare, threat) for threat in threats]
    entries: list[HistoryEntry] = []
    for place in (first, *order):
        source, evidence, _ = runs[place]
        known = msgspec.structs.replace(evidence, clean=everything.clean)
        before = letters
        letters = [_worse(row, outcomes(plan, known, threat)) for row, threat in zip(letters, threats, strict=True)]
        lowered = {
            name: count
            for name, old, new in zip(
                (*threats, UNION), (*before, union(*before)), (*letters, union(*letters)), strict=True
            )
            if (count := _lost(new) - _lost(old))
        }
        if lowered or not entries:
            accuracies = tuple(accuracy(row) for row in letters)
            entries.append(
                HistoryEntry(
                    source.date,
                    source.name,
                    source.by,
                    lowered,
                    accuracies,
                    accuracy(union(*letters)),
                    sum(accuracies) / len(accuracies),
                )
            )
    return tuple(entries)


def _worse(known: str, new: str) -> str:
    """The known outcomes, with those that are broken only now."""
    return "".join(n if n == Outcome.BROKEN else k for k, n in zip(known, new, strict=True))


def _lost(letters: str) -> int:
    return sum(letter in _LOST for letter in letters)
