"""Published numbers of models of one kind, beside the numbers measured here."""

from collections.abc import Sequence

import pandas as pd

from ...errors import counted
from ..summary import Summary
from .cells import cells, percent
from .seeds import Origin, Origins, PublishedClaim, Row, rows
from .table import Table

APART = "≠"
UNFINISHED = "≤: searches are still to do, so the number may yet fall."
DOUBTFUL = "†: gradients are masked, or may be, so a stronger attack may find more."


def published(summaries: Sequence[Summary], origins: Origins) -> Table | None:
    """A row per model with published numbers under exactly these threats; None if there is none.

    Every cell is `published → measured here`, in percent, with a sign where the published number lies outside the
    95 % interval of each of our runs. All summaries answer the same question.
    """
    threats = frozenset(t.threat for t in summaries[0].threats)
    lines = [(row, claim) for row in rows(summaries, origins) if (claim := _claim(row, origins, threats))]
    if not lines:
        return None
    ours = [cells(row) for row, _ in lines]
    columns = [c for c in ours[0] if any(c in claim.accuracy for _, claim in lines)]
    texts = [
        [row.name, *(_cell(row, claim, column) if column in claim.accuracy else "" for column in columns)]
        for row, claim in lines
    ]
    sources = "; ".join(dict.fromkeys(claim.source for _, claim in lines))
    footer: tuple[str, ...] = (
        f"Published → measured here, percent. Published: {sources}.",
        f"{APART}: the published number lies outside the 95 % interval of ours.",
    )
    footer += (UNFINISHED,) if any(cell.bound for row in ours for cell in row.values()) else ()
    footer += (DOUBTFUL,) if any(cell.masked for row in ours for cell in row.values()) else ()
    names = ", ".join(t.threat for t in summaries[0].threats)
    data = f"{counted(summaries[0].data.examples, 'example')} of {summaries[0].data.name}, {names}"
    return Table(pd.DataFrame(texts, columns=["model", *columns]), f"Beside the published numbers: {data}", footer)


def _claim(row: Row, origins: Origins, threats: frozenset[str]) -> PublishedClaim | None:
    found = origins.get(row.runs[0].model.name, Origin())
    return next((claim for claim in found.claims if claim.threats == threats), None)


def _cell(row: Row, claim: PublishedClaim, column: str) -> str:
    number = claim.accuracy[column]
    trials = [cells(Row(row.name, (run,)))[column] for run in row.runs]
    apart = all(not low <= number <= high for low, high in (trial.ci95 for trial in trials))
    ours = cells(row)[column]
    return f"{percent(number)} → {ours.text(intervals=False)}{'†' * ours.masked}{' ' + APART if apart else ''}"
