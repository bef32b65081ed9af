"""Text in columns that fit the terminal."""

import shutil
import sys
import textwrap
from collections.abc import Sequence

GAP = "  "
NARROWEST = 30  # characters of the last column; with fewer it stands below the others


def width() -> int | None:
    """The columns of the terminal; None where the output is none: then a row is one line, for other programs."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def aligned(rows: Sequence[Sequence[str]], within: int | None) -> str:
    """The rows in columns. The last column is wrapped to `within` characters; no word is broken."""
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    lines = []
    for row in rows:
        lead = GAP.join(f"{cell:<{size}}" for cell, size in zip(row[:-1], widths, strict=True))
        lines += _row(lead, row[-1], within)
    return "\n".join(line.rstrip() for line in lines)


def _row(lead: str, last: str, within: int | None) -> list[str]:
    indent = len(lead) + len(GAP) if lead else 0
    if within is not None and within - indent < NARROWEST:
        return [*textwrap.wrap(lead, within), *wrapped(last, within, indent=4)]
    lines = wrapped(last, within, indent) or [""]
    return [(lead + lines[0][len(lead) :]) if lines[0] else lead, *lines[1:]]


def wrapped(text: str, within: int | None, indent: int = 0) -> list[str]:
    """The lines of a text, indented and wrapped; addresses stay whole."""
    space = " " * indent
    if within is None:
        return [space + line for line in text.split("\n")]
    wrapper = textwrap.TextWrapper(
        within, initial_indent=space, subsequent_indent=space, break_long_words=False, break_on_hyphens=False
    )
    return [part for line in text.split("\n") for part in wrapper.wrap(line)]
