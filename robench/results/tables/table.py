"""A table for printing: cells of text, marks on some of them, a caption and a footer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
from tabulate import tabulate

Mark = Literal["best", "second", "masked"]
"""Best of its column, or not significantly worse; second best; an accuracy that masking may make too high."""

TEXT = frozenset({"model", "source", "threat", "attack", "robust to", "indicator", "value", "meaning", "what to do"})
"""Columns of text, which are aligned to the left. Numbers are aligned to the right."""


@dataclass(frozen=True)
class Table:
    """Cells of text, and the sentences around them.

    `marks` are by row and column, counted from 0; the text of a cell does not include them. The `last` rows, such as
    OPT, are set apart in formats that draw lines. `side` is a table to be shown to the right of this one.
    """

    frame: pd.DataFrame
    caption: str = ""
    footer: tuple[str, ...] = ()
    marks: Mapping[tuple[int, int], frozenset[Mark]] = field(default_factory=dict)
    last: int = 0
    side: "Table | None" = None

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [str(column) for column in self.frame.columns]

    def cells(self, shown: Callable[[str, frozenset[Mark]], str]) -> list[list[str]]:
        """Every cell, as `shown` renders its text and marks."""
        return [
            [shown(line(str(value)), self.marks.get((i, j), frozenset())) for j, value in enumerate(row)]
            for i, row in enumerate(self.frame.itertuples(index=False, name=None))
        ]

    def markdown(self) -> str:
        """Caption, table and footer, a blank line between them, a newline at the end.

        Best is bold, second best underlined (by `<ins>`, which code hosts allow), masking a dagger.
        """
        sides = [self] if self.side is None else [self, self.side]
        caption = " | ".join(side.caption for side in sides if side.caption)
        footer = list(dict.fromkeys(sentence for side in sides for sentence in side.footer))
        headers, rows = _beside([([_escaped(c) for c in side.columns], side.cells(_marked)) for side in sides])
        # numparse would turn 0.0 into 0.
        align = ["left" if column in TEXT else "right" for column in headers]
        body = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=align) if rows else ""
        parts = [f"**{line(caption)}**" if caption else "", body, "\n".join(map(line, footer))]
        return "\n\n".join(part for part in parts if part) + "\n"


def line(text: str) -> str:
    """The text in one line: line breaks would break a table."""
    return " ".join(text.split())


def _beside(sides: Sequence[tuple[list[str], list[list[str]]]]) -> tuple[list[str], list[list[str]]]:
    """Tables of different height as one, an empty column between them."""
    height = max(len(rows) for _, rows in sides)
    headers: list[str] = []
    joined: list[list[str]] = [[] for _ in range(height)]
    for number, (columns, rows) in enumerate(sides):
        gap = [""] if number else []
        headers += gap + columns
        for i, row in enumerate(joined):
            row += gap + (rows[i] if i < len(rows) else [""] * len(columns))
    return headers, joined


def _marked(text: str, marks: frozenset[Mark]) -> str:
    text = _escaped(text) + ("†" if "masked" in marks else "")
    if "best" in marks:
        return f"**{text}**"
    return f"<ins>{text}</ins>" if "second" in marks else text


def _escaped(text: str) -> str:
    """The text in one line, with bars and tags escaped, for a cell."""
    return line(text).replace("|", "\\|").replace("<", "&lt;")
