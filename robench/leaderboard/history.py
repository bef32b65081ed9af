"""The history of a row: which run set its numbers, which lowered them, and when.

An example is broken by the first run that holds an accepted image of it. So the order of runs decides on credit and on
nothing else: the last entry has the accuracies of the row, whatever the order. Examples that were open after a run may
have been searched since, without success: then the row has fewer of them than its last entry.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .. import __version__
from ..evidence.records import Evidence, Plan
from ..results.merging import merge
from ..results.outcomes import Outcome, before_attack
from ..results.summarising import summarise
from ..results.summary import Summary
from .entries import HistoryEntry

UNION = "union"
LATEST = "9999-12-31T23:59:59Z"


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
    is marked if it is about the examples and threats of the row, by whatever protocol: the first of those comes first.
    What the attacks of `plan` have still to search is open in an entry.
    """
    runs = list(runs)
    order = in_order([source for source, _, _ in runs])
    first = next((place for place in order if runs[place][2]), order[0])
    order.remove(first)
    # What the model answers before any attack is known from the start, so that only attacks lower a number.
    wrong = before_attack(plan, everything).count(Outcome.WRONG)
    lost = dict.fromkeys([*(t.threat for t in plan.threats), UNION], wrong)
    known = Evidence(clean=everything.clean)
    entries: list[HistoryEntry] = []
    for place in (first, *order):
        source, evidence, _ = runs[place]
        known = merge([known, evidence]).evidence
        after = summarise(plan, known, __version__)
        now = _lost(after)
        lowered = {name: count - lost[name] for name, count in now.items() if count > lost[name]}
        lost = now
        if lowered or not entries:
            entries.append(_entry(source, lowered, after))
    return tuple(entries)


def _lost(summary: Summary) -> dict[str, int]:
    """The number of examples that are wrong or broken, by threat, and under `union`."""
    return {t.threat: t.wrong + t.broken for t in summary.threats} | {UNION: summary.union.wrong + summary.union.broken}


def _entry(source: Source, lowered: dict[str, int], after: Summary) -> HistoryEntry:
    accuracies = tuple(t.accuracy for t in after.threats)
    return HistoryEntry(
        date=source.date,
        source=source.name,
        by=source.by,
        lowered=lowered,
        threats=accuracies,
        union=after.union.accuracy,
        average=sum(accuracies) / len(accuracies),
        open=tuple(t.open for t in after.threats) if any(t.open for t in after.threats) else (),
        union_open=after.union.open,
        unmeasured=tuple(t.threat for t in after.threats if not t.measured),
    )
