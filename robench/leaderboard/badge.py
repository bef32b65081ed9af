"""A badge of one row: a small SVG with its union, and the Markdown that shows it."""

from xml.sax.saxutils import escape

from .entries import Board, ModelResult, Table
from .texts import percent, printable

LABEL = "robust union"
LETTER = 7  # pixels of a letter at most, at a size of 11


def badge_path(board: Board, table: Table, row: ModelResult) -> str:
    """The badge's path below the site."""
    return f"badge/{board.id}/{table.id}/{row.id}.svg"


def badge_value(row: ModelResult) -> str:
    """The number on the badge: an upper bound where searches are still to do, or where gradients may be masked."""
    if not row.union.measured:
        return "not measured"
    bound = "≤ " if row.union.open or row.union.masked else ""
    return f"{bound}{percent(row.union.accuracy)} %"


def badge(board: Board, table: Table, row: ModelResult) -> bytes:
    """The SVG file, without fonts, styles or scripts."""
    value = badge_value(row)
    left, width = (LETTER * len(text) + 12 for text in (LABEL, value))
    title = printable(f"{row.name} on {board.data} under {', '.join(table.threats)}: {LABEL} {value}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width}" height="20" role="img" aria-labelledby="t">'
        f'<title id="t">{escape(title)}</title>'
        f'<rect width="{left + width}" height="20" rx="3" fill="#3b4450"/>'
        f'<path d="M{left} 0h{width - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{width - 3}z" fill="#0b57a4"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">{LABEL}</text>'
        f'<text x="{left + width / 2}" y="14">{escape(value)}</text></g></svg>\n'
    ).encode()


def markdown(board: Board, table: Table, row: ModelResult, url: str) -> str:
    """The line that shows the badge and leads to the page of the model; `url` is the site's address, or empty."""
    text = f"{LABEL} {badge_value(row)}"
    return f"[![{text}]({url}{badge_path(board, table, row)})]({url}models/{board.id}/{row.id}.html)"
