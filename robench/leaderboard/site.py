"""The static site: every file of it, from boards and what the command line adds to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .badge import badge, badge_path, markdown
from .downloads import csv_file, csv_path, sqlite_file, sqlite_path
from .entries import Board, ModelResult, Table, json_files
from .feed import changes, feed
from .pages import Pages
from .pictures import TableImages, gallery
from .scripts import Galleries, data_scripts, model_script

STATIC = Path(__file__).parent / "static"
FILES = ("board.css", "numbers.js", "pictures.js", "table.js", "radius.js", "compare.js", "board.js", "plots.js")
VENDORED = ("uPlot.iife.min.js", "uPlot.min.css", "uPlot.LICENSE.txt", "vendor.toml")


@dataclass(frozen=True)
class Download:
    """A run file with all evidence on a model, the number of images in it, and of breaks whose image it lacks."""

    content: bytes
    images: int
    missing: int = 0


@dataclass(frozen=True)
class Extras:
    """What a site shows beside the boards: images by board and table, run files by board and model, its address."""

    images: Mapping[tuple[str, str], TableImages] = field(default_factory=dict)
    runs: Mapping[tuple[str, str], Download] = field(default_factory=dict)
    url: str = ""  # with a slash at the end, or empty


def site(boards: Sequence[Board], extras: Extras | None = None) -> dict[str, bytes]:
    """Every file of the site by its path below the folder. Equal input gives equal bytes."""
    extras = extras or Extras()
    pages = Pages()
    files = {name: (STATIC / name).read_bytes() for name in FILES}
    files |= {f"vendor/{name}": (STATIC / "vendor" / name).read_bytes() for name in VENDORED}
    files["index.html"] = pages.render("index.html", boards=boards, up="")
    files["feed.xml"] = feed(boards, extras.url)
    files |= {f"data/{name}": content for name, content in json_files(boards).items()}
    for board in boards:
        galleries = {}
        for table in board.tables:
            if (board.id, table.id) in extras.images:
                found, sheets = gallery(board, table, extras.images[board.id, table.id])
                galleries[board.id, table.id] = found
                files |= sheets
            files[csv_path(board, table)] = csv_file(table)
            files |= {badge_path(board, table, row): badge(board, table, row) for row in table.models}
        files[sqlite_path(board)] = sqlite_file(board)
        files[f"{board.id}.html"] = pages.render("board.html", board=board, csv_path=csv_path, up="")
        files[f"history/{board.id}.html"] = pages.render("history.html", board=board, changes=changes(board), up="../")
        files |= data_scripts(board, galleries)
        files |= _models(pages, board, galleries, extras)
    return files


def _models(pages: Pages, board: Board, galleries: Galleries, extras: Extras) -> dict[str, bytes]:
    """The page of each model, its plots, and its run file."""
    files = {}
    for identity, rows in _by_model(board).items():
        path = f"models/{board.id}/{identity}"
        files[f"{path}.js"] = model_script(rows)
        run = extras.runs.get((board.id, identity))
        if run is not None:
            files[f"runs/{board.id}/{identity}.robench"] = run.content
        files[f"{path}.html"] = pages.render(
            "model.html",
            board=board,
            rows=rows,
            model=rows[0][1],
            galleries=galleries,
            run=run,
            url=extras.url,
            markdown=markdown,
            badge_path=badge_path,
            up="../../",
        )
    return files


def _by_model(board: Board) -> dict[str, list[tuple[Table, ModelResult]]]:
    found: dict[str, list[tuple[Table, ModelResult]]] = {}
    for table in board.tables:
        for row in table.models:
            found.setdefault(row.id, []).append((table, row))
    return found
