"""What changed when: entries of all models of a board, and the Atom feed of all boards (RFC 4287)."""

import uuid
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from ..errors import counted
from .entries import Board, HistoryEntry, ModelResult, Table
from .texts import bounded, is_date, printable

UNDATED = "1970-01-01T00:00:00Z"  # of a feed without entries, which needs a date too
FEED_LENGTH = 200  # entries of the feed; the page has all


class Change(NamedTuple):
    """One entry of the history of one row."""

    board: Board
    table: Table
    row: ModelResult
    entry: HistoryEntry

    @property
    def title(self) -> str:
        """A line for the feed."""
        return f"{self.row.name}: union {self.union} on {self.board.data}"

    @property
    def union(self) -> str:
        """The union after it: an upper bound while examples are open."""
        entry = self.entry
        if not self.measured:
            return "not measured"
        return f"{bounded(entry.union, entry.union_open)}{'†' * self.row.union.masked} %"

    @property
    def measured(self) -> bool:
        """Whether some planned attack had not failed."""
        return len(self.entry.unmeasured) < len(self.table.threats)

    @property
    def sentence(self) -> str:
        """What the run did, in one sentence."""
        entry, where = self.entry, f"under {', '.join(self.table.threats)}"
        by = f" by {entry.by}" if entry.by else ""
        broken = ", ".join(f"{count} under {threat}" for threat, count in entry.lowered.items() if threat != "union")
        what = f"first broke these examples: {broken}" if broken else "broke no further example"
        if not self.measured:
            now = f"Nothing is measured yet {where}"
        elif entry.union_open:
            now = f"Now {self.union} stand {where}, with {counted(entry.union_open, 'example')} open"
        else:
            now = f"Now {self.union} stand {where}"
        if self.row.union.masked:
            now += "; its gradients are masked, or may be"
        return f"{entry.source or 'A run'}{by} {what}. {now}."


def changes(board: Board) -> list[Change]:
    """All entries of a board, newest first; undated ones last."""
    found = [
        Change(board, table, row, entry)
        for table in board.tables
        for row in table.models
        for entry in reversed(row.history)
    ]
    return sorted(found, key=lambda change: _date(change), reverse=True)


def _date(change: Change) -> str:
    return change.entry.date if is_date(change.entry.date) else ""


def feed(boards: Sequence[Board], url: str) -> bytes:
    """The Atom feed: dated entries of all boards, newest first. Addresses are relative without the site's `url`."""
    dated = [change for board in boards for change in changes(board) if _date(change)]
    newest = sorted(dated, key=_date, reverse=True)[:FEED_LENGTH]
    identity = _urn("feed", *sorted(board.data for board in boards))
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<feed xmlns="http://www.w3.org/2005/Atom">',
        f"<id>{identity}</id>",
        "<title>robench leaderboard</title>",
        f"<updated>{_date(newest[0]) if newest else UNDATED}</updated>",
        "<author><name>robench leaderboard</name></author>",
        f'<link rel="alternate" type="text/html" href={quoteattr(url + "index.html")}/>',
    ]
    if url:
        lines.append(f'<link rel="self" type="application/atom+xml" href={quoteattr(url + "feed.xml")}/>')
    for change in newest:
        lines += _entry(change, url)
    return "\n".join([*lines, "</feed>", ""]).encode()


def _entry(change: Change, url: str) -> Iterable[str]:
    """The lines of one entry. Its id depends on what changed, not on where the site is."""
    board, table, row, entry = change
    found = (f"{threat} {count}" for threat, count in sorted(entry.lowered.items()))
    identity = _urn(board.data, table.id, row.id, entry.date, entry.source, entry.by, repr(entry.union), *found)
    yield "<entry>"
    yield f"<id>{identity}</id>"
    yield f"<title>{escape(printable(change.title))}</title>"
    yield f"<updated>{_date(change)}</updated>"
    if entry.by:
        yield f"<author><name>{escape(printable(entry.by))}</name></author>"
    yield f'<link rel="alternate" type="text/html" href={quoteattr(f"{url}models/{board.id}/{row.id}.html")}/>'
    yield f'<content type="text">{escape(printable(change.sentence))}</content>'
    yield "</entry>"


def _urn(*parts: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(("robench leaderboard", *parts))).urn
