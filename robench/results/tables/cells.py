"""The cells of one row of the main table: a share for each column, its interval, and the scores that rank it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..outcomes import Outcome
from ..stats.comparison import Scores
from ..stats.intervals import Interval
from ..summary import Summary
from .seeds import Row, spread

MASKED = ("masked", "suspect")
"""Verdicts on masking that make an accuracy doubtful, so that it is marked."""


@dataclass(frozen=True)
class Cell:
    """An accuracy of one run, or of several that differ in their seed only."""

    shares: tuple[float, ...]
    ci95: Interval
    open: int = 0  # searches on so many examples are still to do
    failed: int = 0  # and on so many more an attack, or the model, raised
    bound: bool = False  # some are open, or failed
    masked: bool = False
    measured: bool = True  # False: every planned attack failed
    scores: Scores | None = None  # None for a bound, which may still decrease

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return spread(self.shares)[0]

    def text(self, intervals: bool) -> str:
        """The share in percent: marked as a bound while examples are open or failed, with their numbers; over seeds
        with the standard deviation.

        If nothing was measured there is no number, because open examples would read as accuracy.
        """
        if not self.measured:
            return "not measured"
        text = percent(self.mean)
        if len(self.shares) > 1:
            text += f" ± {percent(spread(self.shares)[1])}"
        elif intervals:
            text += f" [{percent(self.ci95[0])}, {percent(self.ci95[1])}]"
        left = ", ".join(f"{n} {word}" for n, word in ((self.open, "open"), (self.failed, "failed")) if n)
        return f"≤ {text}{f' ({left})' if left else ''}" if self.bound else text


def cells(row: Row) -> dict[str, Cell]:
    """The cells by column: clean, each threat, and union and average of two threats or more (of one, both equal it)."""
    first = row.runs[0]
    made = {"clean": _joined(row, _clean)}
    made |= {t.threat: _joined(row, partial(_threat, place=i)) for i, t in enumerate(first.threats)}
    if len(first.threats) > 1:
        made |= {"union": _joined(row, _union), "average": _joined(row, _average)}
    return made


def percent(share: float) -> str:
    """A share in percent, with one digit after the point."""
    return f"{100 * share:.1f}"


def _joined(row: Row, of: Callable[[Summary], Cell]) -> Cell:
    parts = [of(run) for run in row.runs]
    bound = any(part.bound for part in parts)
    scores = [part.scores for part in parts if part.scores is not None]
    return Cell(
        shares=tuple(share for part in parts for share in part.shares),
        ci95=parts[0].ci95,
        open=sum(part.open for part in parts),
        failed=sum(part.failed for part in parts),
        bound=bound,
        masked=any(part.masked for part in parts),
        measured=all(part.measured for part in parts),
        scores=None if bound else _sum(scores),
    )


def _clean(summary: Summary) -> Cell:
    entry = summary.clean
    correct = Scores(_where(summary.union.outcomes, Outcome.BROKEN, Outcome.STANDING, Outcome.OPEN))
    still_open, failed = (0, entry.open) if entry.error else (entry.open, 0)
    return Cell((entry.accuracy,), entry.ci95, still_open, failed, entry.open > 0, scores=correct)


def _threat(summary: Summary, place: int) -> Cell:
    entry = summary.threats[place]
    masked = entry.masking.verdict in MASKED
    stands = Scores(_where(entry.outcomes, Outcome.STANDING))
    left = (entry.open - entry.failed, entry.failed)
    return Cell((entry.accuracy,), entry.ci95, *left, entry.open > 0, masked, entry.measured, stands)


def _union(summary: Summary) -> Cell:
    entry = summary.union
    masked = summary.masking.verdict in MASKED
    stands = Scores(_where(entry.outcomes, Outcome.STANDING))
    measured = any(t.measured for t in summary.threats)
    left = (entry.open - entry.failed, entry.failed)
    return Cell((entry.accuracy,), entry.ci95, *left, entry.open > 0, masked, measured, stands)


def _average(summary: Summary) -> Cell:
    entry = summary.average
    assert entry.accuracy is not None, "threats have an average"
    assert entry.ci95 is not None, "threats have an average"
    bound = any(t.open for t in summary.threats)
    stands = _sum([Scores(_where(t.outcomes, Outcome.STANDING)) for t in summary.threats])
    measured = all(t.measured for t in summary.threats)
    return Cell((entry.accuracy,), entry.ci95, 0, 0, bound, summary.masking.verdict in MASKED, measured, stands)


def _where(letters: str, *outcomes: Outcome) -> np.ndarray:
    return np.array([int(letter in {o.value for o in outcomes}) for letter in letters])


def _sum(scores: Sequence[Scores]) -> Scores:
    """Their mean, as points out of a sum."""
    return Scores(np.sum([s.points for s in scores], axis=0), sum(s.out_of for s in scores))
