"""How to cite a row: a paragraph, and BibTeX."""

import re

from .entries import Board, ModelResult, Table
from .texts import is_date, percent

SPECIAL = re.compile(r"[\\{}$&#_%^~]")
WORDS = {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}


def paragraph(board: Board, table: Table, row: ModelResult) -> str:
    """The row in a sentence or two: model, data, number, and what it rests on."""
    return f"{row.name} on {board.data}. {_number(table, row)} robench leaderboard{_until(row, ', last run of ')}."


def bibtex(board: Board, table: Table, row: ModelResult, url: str) -> str:
    """A BibTeX entry; `url` is the site's address, or empty."""
    fields = {
        "title": f"{{{_tex(f'{row.name} on {board.data}')}}}",
        "howpublished": "robench leaderboard",
        "note": _tex(_number(table, row)),
    }
    if date := _last(row):
        fields |= {"year": date[:4], "month": str(int(date[5:7]))}
    if url:
        fields["url"] = f"{url}models/{board.id}/{row.id}.html"
    lines = [f"  {key} = {{{text}}}," for key, text in fields.items()]
    return "\n".join([f"@misc{{robench-{row.id}-{table.id},", *lines, "}"])


def _number(table: Table, row: ModelResult) -> str:
    if not row.union.measured:
        number = "Not measured"
    else:
        low, high = map(percent, row.union.ci95)
        number = f"Robust accuracy at most {percent(row.union.accuracy)} % (95 % interval {low} to {high})"
    weights = f" Weights with SHA-256 {row.weights_sha256}." if row.weights_sha256 else ""
    return (
        f"{number} under the union of {', '.join(table.threats)}, over {table.examples:,} examples, protocol"
        f" {row.protocol}.{weights}"
    )


def _last(row: ModelResult) -> str:
    return max((entry.date for entry in row.history if is_date(entry.date)), default="")


def _until(row: ModelResult, words: str) -> str:
    date = _last(row)
    return f"{words}{date[:10]}" if date else ""


def _tex(text: str) -> str:
    """The text with TeX's special signs written out, on one line."""
    return SPECIAL.sub(lambda found: WORDS.get(found[0], f"\\{found[0]}"), " ".join(text.split()))
