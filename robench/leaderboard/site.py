"""The static site: pages, and data in scripts, since a page that is opened from a file cannot fetch."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .entries import Board, ModelResult, Share, Table, json_files

HERE = Path(__file__).parent
STATIC = ("board.css", "board.js")


def site(boards: Sequence[Board]) -> dict[str, bytes]:
    """Every file of the site by its path below the folder. Equal boards give equal bytes."""
    pages = _environment()
    files = {name: (HERE / "static" / name).read_bytes() for name in STATIC}
    files["index.html"] = _page(pages, "index.html", boards=boards, up="")
    files |= {f"data/{name}": content for name, content in json_files(boards).items()}
    for board in boards:
        files[f"{board.id}.html"] = _page(pages, "board.html", board=board, up="")
        files[f"data/{board.id}.js"] = _script(f"robenchBoard = {_json(_for_page(board))};")
        for identity, rows in _by_model(board).items():
            path = f"models/{board.id}/{identity}.html"
            files[path] = _page(pages, "model.html", board=board, rows=rows, model=rows[0][1], up="../../")
            for table, row in rows:
                letters = [t.outcomes for t in row.threats]
                arguments = ", ".join(map(_json, (table.id, row.id, letters)))
                files[outcomes_path(board, table, row)] = _script(f"robenchOutcomes({arguments});")
    return files


def outcomes_path(board: Board, table: Table, row: ModelResult) -> str:
    """The script with the outcomes of one model, which a page loads when the model is compared."""
    return f"outcomes/{board.id}/{table.id}/{row.id}.js"


def _by_model(board: Board) -> dict[str, list[tuple[Table, ModelResult]]]:
    found: dict[str, list[tuple[Table, ModelResult]]] = {}
    for table in board.tables:
        for row in table.models:
            found.setdefault(row.id, []).append((table, row))
    return found


def _for_page(board: Board) -> dict[str, Any]:
    """What the script of the page needs: counts of patterns, and no strings per example."""
    return {
        "id": board.id,
        "tables": {
            table.id: {
                "threats": table.threats,
                "models": {
                    row.id: {
                        "name": row.name,
                        "beyond": row.beyond,
                        "patterns": row.patterns,
                        "measured": [t.share.measured for t in row.threats],
                        "masked": [t.share.masked for t in row.threats],
                    }
                    for row in table.models
                },
            }
            for table in board.tables
        },
    }


def _json(value: object) -> str:
    """JSON that is safe inside a script, also one inside a page."""
    text = msgspec.json.encode(value).decode()
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _script(text: str) -> bytes:
    return f"{text}\n".encode()


def _page(pages: Environment, template: str, **content: Any) -> bytes:
    return (pages.get_template(template).render(**content).strip() + "\n").encode()


def _environment() -> Environment:
    """Templates that escape every text and refuse unknown names."""
    pages = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters["percent"] = _percent
    pages.filters["cell"] = _cell
    pages.filters["count"] = lambda number: f"{number:,}"
    pages.filters["minutes"] = lambda number: f"{number:.1f}"
    pages.globals["outcome_rows"] = _outcome_rows
    return pages


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _cell(share: Share, column: str) -> Markup:
    """A cell of the main table, as `static/board.js` writes it for other threats."""
    if not share.measured:
        return Markup(f'<td class="number {column}" data-value="-1">not measured</td>')
    low, high = map(_percent, share.ci95)
    text = ("≤ " if share.open else "") + _percent(share.accuracy)
    if share.rank == "best":
        text = f"<strong>{text}</strong>"
    if share.masked:
        text += '<span class="mark" title="gradients are masked, or may be: a stronger attack may find more">†</span>'
    note = ""
    if share.open:
        note = f' title="{html.escape(f"{share.open - share.failed} open, {share.failed} failed")}"'
    return Markup(
        f'<td class="number {column}" data-value="{share.accuracy!r}"{note}>{text}'
        f'<span class="ci">{low}–{high}</span>'
        f'<span class="bar" aria-hidden="true" style="--low:{low};--high:{high}"></span></td>'
    )


def _outcome_rows(table: Table, row: ModelResult) -> Iterable[tuple[str, int]]:
    """Each pattern in words, with its count: the more threats an example withstands, the earlier."""
    words = {"W": "wrong before any attack", "O": "open", "B": "broken", "S": "stands"}
    for pattern, count in sorted(row.patterns.items(), key=lambda item: (-item[0].count("S"), item[0])):
        if len(set(pattern)) == 1:
            where = "" if pattern[0] == "W" or len(pattern) == 1 else " under all threats"
            yield words[pattern[0]] + where, count
        else:
            parts = (f"{words[letter]} under {t}" for letter, t in zip(pattern, table.threats, strict=True))
            yield ", ".join(parts), count
