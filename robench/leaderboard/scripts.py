"""Data of the pages in scripts, since a page that is opened from a file cannot fetch."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from .entries import LEVELS, Board, HistoryEntry, ModelResult, Table
from .pictures import Gallery, for_script
from .texts import is_date

Galleries = Mapping[tuple[str, str], Gallery]
"""Galleries by the ids of board and table."""


def outcomes_path(board: Board, table: Table, row: ModelResult) -> str:
    """The script with the outcomes of one model, which a page loads when the model is compared."""
    return f"outcomes/{board.id}/{table.id}/{row.id}.js"


def levels_path(board: Board, table: Table, row: ModelResult) -> str:
    """The script with the levels of one model, which a page loads when a radius is moved."""
    return f"levels/{board.id}/{table.id}/{row.id}.js"


def data_scripts(board: Board, galleries: Galleries) -> dict[str, bytes]:
    """All scripts with data of a board, by path."""
    files = {f"data/{board.id}.js": _script(f"robenchBoard = {_json(_board(board, galleries))};")}
    for table in board.tables:
        found = galleries.get((board.id, table.id))
        for row in table.models:
            letters = [t.outcomes for t in row.threats]
            sheets = for_script(found, table, row)
            files[outcomes_path(board, table, row)] = _call("robenchOutcomes", table.id, row.id, letters, sheets)
            if any(t.levels for t in row.threats):
                levels = [t.levels or t.outcomes for t in row.threats]
                files[levels_path(board, table, row)] = _call("robenchLevels", table.id, row.id, levels)
    return files


def model_script(rows: list[tuple[Table, ModelResult]]) -> bytes:
    """What the plots on a model's page show, a record per table."""
    return _script(f"robenchModel = {_json([_plots(table, row) for table, row in rows])};")


def radius_curve(levels: str) -> list[float]:
    """The share of examples that stand or are open within each twentieth of the radius."""
    counts = {letter: levels.count(letter) for letter in LEVELS}
    lost, found = levels.count("W"), []
    for letter in LEVELS:
        lost += counts[letter]
        found.append((len(levels) - lost) / len(levels))
    return found


def _plots(table: Table, row: ModelResult) -> dict[str, Any]:
    dated = [entry for entry in row.history if is_date(entry.date)]
    return {
        "radius": [{"threat": t.threat, "standing": radius_curve(t.levels)} for t in row.threats if t.levels],
        "queries": [
            {"threat": t.threat, "curves": t.queries, "clean": row.clean.accuracy} for t in row.threats if t.queries
        ],
        "history": {
            "names": [*table.threats, "union"],
            "dates": [entry.date for entry in dated],
            "values": [_values(table, entry) for entry in dated],
        },
    }


def _values(table: Table, entry: HistoryEntry) -> list[float | None]:
    """The accuracies after a run, and the union; None where nothing was measured."""
    unknown = len(entry.unmeasured) == len(table.threats)
    shares = (
        None if name in entry.unmeasured else share for name, share in zip(table.threats, entry.threats, strict=True)
    )
    return [*shares, None if unknown else entry.union]


def _board(board: Board, galleries: Galleries) -> dict[str, Any]:
    """What the script of the page needs: counts by sets of threats, and no strings per example."""
    tables = {table.id: _table(table, galleries.get((board.id, table.id))) for table in board.tables}
    return {"id": board.id, "tables": tables}


def _table(table: Table, gallery: Gallery | None) -> dict[str, Any]:
    names = ("clean", "labels", "width", "height", "columns")
    return {
        "threats": table.threats,
        "examples": table.examples,
        "numbers": table.numbers,
        "images": None if gallery is None else {name: getattr(gallery, name) for name in names},
        "models": {
            row.id: {
                "name": row.name,
                "beyond": row.beyond,
                "stands": (stands := _sets(row, "S")),
                "held": "" if (held := _sets(row, "SO")) == stands else held,
                "measured": _bits(t.share.measured for t in row.threats),
                "masked": _bits(t.share.masked for t in row.threats),
                "levels": _bits(bool(t.levels) for t in row.threats),
            }
            for row in table.models
        },
    }


def _sets(row: ModelResult, letters: str) -> str:
    """Numbers of examples by the set of threats, a bit each, under which their outcome is one of the letters.

    `0 12 3 5` are 12 examples under no threat and 5 under the first two. The page needs no more of the patterns, of
    which there can be as many as examples.
    """
    counts = Counter[int]()
    for pattern, count in row.patterns.items():
        counts[sum((letter in letters) << place for place, letter in enumerate(pattern))] += count
    return " ".join(f"{threats} {counts[threats]}" for threats in sorted(counts))


def _bits(values: Any) -> str:
    return "".join("1" if value else "0" for value in values)


def _call(name: str, *arguments: object) -> bytes:
    return _script(f"{name}({', '.join(map(_json, arguments))});")


def _json(value: object) -> str:
    """JSON that is safe inside a script, also one inside a page."""
    text = msgspec.json.encode(value).decode()
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _script(text: str) -> bytes:
    return f"{text}\n".encode()
