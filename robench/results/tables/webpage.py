"""Tables as one static page without external files."""

from collections.abc import Sequence
from html import escape

from tabulate import tabulate

from .table import TEXT, Mark, Table

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>robench report</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; margin: 2rem auto; max-width: 96rem; padding: 0 1rem; }
section { margin: 2rem 0; }
caption { text-align: left; font-weight: bold; padding-bottom: 0.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; white-space: nowrap; }
thead th { border-top: 2px solid; border-bottom: 1px solid; }
tbody tr:last-child td { border-bottom: 2px solid; }
.sides { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; align-items: flex-start; overflow-x: auto; }
.notes { font-size: 0.85rem; color: #555; }
.masked { color: #c00000; }
</style>
</head>
<body>
"""


def fragment(tables: Sequence[Table]) -> str:
    """Tables as HTML without a page around them, for another page."""
    return "\n".join(_section(table) for table in tables)


def page(tables: Sequence[Table]) -> str:
    """Best is bold, second best underlined, masking red. All text is escaped."""
    return _HEAD + fragment(tables) + "</body>\n</html>\n"


def _section(table: Table) -> str:
    sides = [table] if table.side is None else [table, table.side]
    notes = dict.fromkeys(sentence for side in sides for sentence in side.footer)
    grids = "\n".join(f"<div>\n{_captioned(side)}</div>" for side in sides)
    lines = "<br>\n".join(escape(note) for note in notes)
    return f'<section>\n<div class="sides">\n{grids}\n</div>\n<p class="notes">\n{lines}\n</p>\n</section>\n'


def _captioned(table: Table) -> str:
    """A caption of the table itself is no wider than it, so that two stand side by side."""
    if not len(table.frame):
        return f"<p>{escape(table.caption)}</p>\n"
    align = ["left" if column in TEXT else "right" for column in table.columns]
    heads = [escape(column) for column in table.columns]
    grid = str(tabulate(table.cells(_marked), heads, tablefmt="unsafehtml", disable_numparse=True, colalign=align))
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return grid.replace("<table>", f"<table>{caption}", 1) + "\n"


def _marked(text: str, marks: frozenset[Mark]) -> str:
    text = escape(text)
    if "best" in marks:
        text = f"<strong>{text}</strong>"
    elif "second" in marks:
        text = f"<u>{text}</u>"
    return f'<span class="masked" title="gradients may be masked">{text}</span>' if "masked" in marks else text
