"""What a paper says of a model of this kind, beside what was measured here."""

from collections.abc import Sequence

import pandas as pd

from ..errors import counted
from .cells import cells, percent
from .seeds import Claim, Origin, Origins, Row, rows
from .summary import Summary
from .table import Table

APART = "≠"


def published(summaries: Sequence[Summary], origins: Origins) -> Table | None:
    """A row per model that is claimed something under just these threats; None where none is.

    Every cell is `published → measured here`, in percent, with a sign where the published number lies outside the
    95 % interval of each of our runs. All summaries answer the same question.
    """
    asked = frozenset(t.threat for t in summaries[0].threats)
    lines = [(row, claim) for row in rows(summaries, origins) if (claim := _claim(row, origins, asked))]
    if not lines:
        return None
    ours = [cells(row) for row, _ in lines]
    columns = [c for c in ours[0] if any(c in claim.accuracy for _, claim in lines)]
    texts = [
        [row.name, *(_cell(row, claim, column) if column in claim.accuracy else "" for column in columns)]
        for row, claim in lines
    ]
    sources = "; ".join(dict.fromkeys(claim.source for _, claim in lines))
    footer = (
        f"Published → measured here, percent. Published: {sources}.",
        f"{APART}: the published number lies outside the 95 % interval of ours.",
    )
    threats = ", ".join(t.threat for t in summaries[0].threats)
    data = f"{counted(summaries[0].data.examples, 'example')} of {summaries[0].data.name}, {threats}"
    return Table(pd.DataFrame(texts, columns=["model", *columns]), f"Beside the published numbers: {data}", footer)


def _claim(row: Row, origins: Origins, asked: frozenset[str]) -> Claim | None:
    found = origins.get(row.runs[0].model.name, Origin())
    return next((claim for claim in found.claims if claim.threats == asked), None)


def _cell(row: Row, claim: Claim, column: str) -> str:
    said = claim.accuracy[column]
    trials = [cells(Row(row.name, (run,)))[column] for run in row.runs]
    apart = all(not low <= said <= high for low, high in (trial.ci95 for trial in trials))
    return f"{percent(said)} → {cells(row)[column].text(intervals=False)}{' ' + APART if apart else ''}"
