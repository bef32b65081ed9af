"""Templates of the pages, and what they show of numbers."""

import html
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..errors import counted
from .citation import bibtex, paragraph
from .entries import LEVELS, Certified, ClassResult, ModelResult, Share, Table
from .feed import Change
from .scripts import radius_curve
from .texts import bounded, certified, compact, duration, is_date, percent

FOLDER = Path(__file__).parent / "templates"
MASKED = "gradients are masked, or may be: a stronger attack may find more"
VERDICTS = {"masked": "masked", "suspect": "suspect", "none-found": "none found", "untested": "untested"}
OUTCOMES = {"W": "wrong before any attack", "O": "open", "B": "broken", "S": "stands"}


class Column(NamedTuple):
    """A column of the main table that a reader may hide."""

    id: str  # also the class of its cells
    head: str
    text: bool  # sorted as text
    shown: Callable[[Table], bool]  # at first


COLUMNS = (
    Column("protocol-union", "union by its protocol", False, lambda table: any(row.beyond for row in table.models)),
    Column("masking", "masking", True, lambda _: True),
    Column("parameters", "parameters", False, lambda table: any(row.parameters for row in table.models)),
    Column("training", "training", False, lambda table: any(row.card and row.card.minutes for row in table.models)),
    Column("protocol", "protocol", True, lambda _: True),
    Column("competitiveness", "competitiveness", False, lambda _: False),
    Column("worst", "competitiveness, worst", False, lambda _: False),
    Column("stability", "stability", False, lambda _: False),
    Column("gradients", "gradients", False, lambda _: False),
    Column("forwards", "forward passes", False, lambda _: False),
    Column("seconds", "seconds", False, lambda _: False),
    Column("examples", "n", False, lambda _: False),
)


class Pages:
    """Renders the templates. Every text is escaped, and an unknown name is an error."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._templates.filters |= {
            "percent": percent,
            "bounded": bounded,
            "cell": _cell,
            "share": _share,
            "protocol_union": _protocol_union,
            "count": _count,
            "duration": duration,
            "verdict": lambda verdict: VERDICTS[verdict],
            "day": lambda date: date[:10] if is_date(date) else "no date",
        }
        self._templates.globals |= {
            "COLUMNS": COLUMNS,
            "figure": _figure,
            "percent": percent,
            "compact": compact,
            "duration": duration,
            "count": _count,
            "rounded": lambda seconds: _count(round(seconds)),
            "outcome_rows": _outcome_rows,
            "radius_rows": _radius_rows,
            "query_rows": _query_rows,
            "certified": certified,
            "after": lambda *change: _after(Change(*change)),
            "by_class": _by_class,
            "counted": counted,
            "bibtex": bibtex,
            "paragraph": paragraph,
        }

    def render(self, template: str, **content: Any) -> bytes:
        """The page as a file."""
        return (self._templates.get_template(template).render(**content).strip() + "\n").encode()


def _cell(share: Share, classes: str, bound: Certified | None = None) -> Markup:
    """A cell of the main table, as `static/table.js` writes it for other threats."""
    classes = html.escape(classes)
    if not share.measured:
        return Markup(f'<td class="number {classes}" data-value="-1">not measured</td>')
    low, high = map(percent, share.ci95)
    text = bounded(share.accuracy, share.open)
    if share.rank == "best":
        text = f"<strong>{text}</strong>"
    if share.masked:
        text += f'<span class="mark" title="{MASKED}">†</span>'
    note = ""
    if share.open:
        note = f' data-bound title="{html.escape(f"{share.open - share.failed} open, {share.failed} failed")}"'
    lower = ""
    if bound is not None:
        title = html.escape(bound.source)
        lower = f'<span class="certified" title="{title}">≥ {percent(bound.accuracy)} certified</span>'
    return Markup(
        f'<td class="number {classes}" data-value="{share.accuracy!r}"{note}>{text}'
        f'<span class="ci" style="--low:{low};--high:{high}">{low}–{high}</span>{lower}</td>'
    )


def _protocol_union(row: ModelResult) -> Markup:
    """The cell of the union from the protocol's own runs."""
    if not row.union.measured:
        return _figure("protocol-union", None, percent)
    left = row.protocol_union_open
    return _figure(
        "protocol-union",
        row.protocol_union,
        lambda share: bounded(share, left) + "†" * row.union.masked,
        " data-bound" if left else "",
    )


def _after(change: Change) -> list[str]:
    """The accuracies after a run, by threat; of the union; and of the average."""
    entry, row = change.entry, change.row
    left = entry.open or (0,) * len(row.threats)
    texts = [
        "not measured" if t.threat in entry.unmeasured else bounded(share, count) + "†" * t.share.masked
        for t, share, count in zip(row.threats, entry.threats, left, strict=True)
    ]
    average = "not measured" if entry.unmeasured else bounded(entry.average, sum(left)) + "†" * row.average.masked
    return [*texts, change.union.removesuffix(" %"), average]


def _by_class(row: ModelResult, entry: ClassResult) -> list[str]:
    """The accuracies of a class, by threat, and of the union."""
    shares = [*(t.share for t in row.threats), row.union]
    return [
        percent(accuracy) + "†" * share.masked if share.measured else "not measured"
        for share, accuracy in zip(shares, (*entry.threats, entry.union), strict=True)
    ]


def _figure(column: str, value: int | float | None, text: Callable[[Any], str], data: str = "") -> Markup:
    """A cell with a number, or a dash where it is not known; `data` are further attributes."""
    shown = "–" if value is None else text(value)
    return Markup(f'<td class="number {column}" data-value="{-1 if value is None else value}"{data}>{shown}</td>')


def _count(number: int) -> str:
    return f"{number:,}"


def _share(share: Share) -> str:
    """A share with its interval, in a sentence."""
    if not share.measured:
        return "not measured"
    low, high = map(percent, share.ci95)
    return f"{bounded(share.accuracy, share.open)}{'†' * share.masked} % ({low}–{high})"


def _outcome_rows(table: Table, row: ModelResult) -> Iterable[tuple[str, int]]:
    """Each pattern in words, with its count: the more threats an example withstands, the earlier."""
    for pattern, count in sorted(row.patterns.items(), key=lambda item: (-item[0].count("S"), item[0])):
        if len(set(pattern)) == 1:
            where = "" if pattern[0] == "W" or len(pattern) == 1 else " under all threats"
            yield OUTCOMES[pattern[0]] + where, count
        else:
            parts = (f"{OUTCOMES[letter]} under {t}" for letter, t in zip(pattern, table.threats, strict=True))
            yield ", ".join(parts), count


def _radius_rows(row: ModelResult) -> list[tuple[str, list[float]]]:
    """The accuracy within each second twentieth of the radius, by threat with levels."""
    return [(t.threat, radius_curve(t.levels)[:: (len(LEVELS) - 1) // 10]) for t in row.threats if t.levels]


def _query_rows(row: ModelResult) -> list[tuple[str, str, list[tuple[int, float]]]]:
    """The accuracy after 10, 100, ... forward passes, up to the last change, by threat and attack."""
    rows = []
    for threat in row.threats:
        for curve in threat.queries:
            steps = list(zip(curve.queries, curve.standing, strict=True))
            powers = [10**k for k in range(1, 8) if not steps or 10 ** (k - 1) < steps[-1][0]]
            found = [(n, min((s for q, s in steps if q <= n), default=row.clean.accuracy)) for n in powers]
            rows.append((threat.threat, curve.attack, found))
    return rows
