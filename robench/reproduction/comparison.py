"""Published numbers of a table above those measured here: two rows or more for each model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import msgspec
import pandas as pd

from ..results.outcomes import Outcome, union
from ..results.stats import shares
from ..results.summary import AverageEntry, Summary, UnionEntry
from ..results.tables import HOURS, INTERVALS, RANKED, Origin, Table, main_table, questions
from ..results.tables.cells import Cell, cells, percent
from ..results.tables.published import APART
from ..results.tables.seeds import Row
from .plans import Measured, PaperTable, PlannedModel

EACH = frozenset({RANKED, HOURS, INTERVALS})  # sentences that the page has once, or not at all
MASKED = "†"
ORDER = (Outcome.WRONG, Outcome.BROKEN, Outcome.STANDING, Outcome.OPEN)  # of the counts of a UnionEntry


@dataclass(frozen=True)
class Kind:
    """Models of one kind: their summaries and origins by the plan's name, and commands of what is missing."""

    measured: Measured
    summaries: Mapping[str, Summary] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    afterwards: str = ""  # the command that measures a model once it is trained


def comparison(table: PaperTable, kinds: Sequence[Kind]) -> Table:
    """A row per model and source; one for published numbers only if there are any. Percent, with 95 % intervals."""
    columns = _columns(table)
    rows = [row for model in table.models for row in _rows(table, model, kinds, columns)]
    rows += _optima(table, kinds, columns)
    footer = [sentence for kind in kinds for sentence in _about(kind)]
    return Table(pd.DataFrame(rows, columns=["model", "source", *columns]), footer=tuple(dict.fromkeys(footer)))


def times(table: PaperTable, kinds: Sequence[Kind]) -> Table | None:
    """Hours of training as published, minutes here, and both as multiples of one model; None without published."""
    base = next((m for m in table.models if m.name == table.base), None)
    if base is None or base.hours is None:
        return None
    rows = []
    for model in table.models:
        row = [model.name, "" if model.hours is None else f"{model.hours:.1f}", _multiple(model.hours, base.hours)]
        for kind in kinds:
            own, other = _hours(kind, model.name), _hours(kind, base.name)
            row += ["" if own is None else f"{60 * own:.1f}", _multiple(own, other)]
        rows.append(row)
    headers = ["model", "published hours", f"of {base.name}"]
    for kind in kinds:
        headers += [f"{kind.measured.title}, minutes", f"of {base.name} here"]
    return Table(pd.DataFrame(rows, columns=headers), f"Training time, and as a multiple of {base.name}'s")


def orders(table: PaperTable, kinds: Sequence[Kind], column: str) -> Table | None:
    """The models from the highest number of this column to the lowest, as published and here; None for fewer than two.

    Of equal numbers the first name comes first. Bounds are not ranked.
    """
    theirs = {m.name: m.published[column] for m in table.models if column in m.published}
    ranked = {"published": _ranked(theirs)}
    for kind in kinds:
        found = {name: _cells(table, s)[column] for name, s in kind.summaries.items() if name in theirs}
        ours = {name: cell.mean for name, cell in found.items() if not cell.bound}
        if len(ours) > 1:
            ranked[kind.measured.title] = _ranked(ours, frozenset(name for name in ours if found[name].masked))
    if len(ranked) == 1:
        return None
    rows = list(zip_longest(*ranked.values(), fillvalue=""))
    frame = pd.DataFrame(rows, columns=list(ranked))
    frame.insert(0, "place", [str(place) for place in range(1, len(rows) + 1)])
    return Table(frame, f"Order by {column}")


def restricted(summary: Summary, threats: Sequence[str]) -> Summary:
    """The summary under some of its threats: their union, and their average."""
    chosen = tuple(t for t in summary.threats if t.threat in threats)
    letters = union(*(t.outcomes for t in chosen))
    wrong, broken, standing, left = (
        letters.count(o.value) for o in (Outcome.WRONG, Outcome.BROKEN, Outcome.STANDING, Outcome.OPEN)
    )
    interval = shares.interval(standing, left, len(letters))
    failed = summary.union.failed if len(chosen) == len(summary.threats) else min(left, max(t.failed for t in chosen))
    joint = UnionEntry(shares.accuracy(letters), interval, wrong, broken, standing, left, letters, failed)
    average = AverageEntry(*shares.mean([t.outcomes for t in chosen]))
    return msgspec.structs.replace(summary, threats=chosen, union=joint, average=average)


def _columns(table: PaperTable) -> list[str]:
    several = len(table.united or table.threats) > 1
    return ["clean", *table.threats, *(["union", "average"] if several else [])]


def _ranked(numbers: Mapping[str, float], masked: frozenset[str] = frozenset()) -> list[str]:
    names = sorted(numbers, key=lambda name: (-numbers[name], name))
    return [f"{name} ({percent(numbers[name])}{MASKED * (name in masked)})" for name in names]


def _rows(table: PaperTable, model: PlannedModel, kinds: Sequence[Kind], columns: Sequence[str]) -> Iterator[list[str]]:
    name = model.name
    if model.published:
        yield [name, "published", *(_published(model.published, column) for column in columns)]
        name = ""
    for kind in kinds:
        if model.name in kind.summaries:
            summary = kind.summaries[model.name]
            found = _cells(table, summary)
            source = f"{kind.measured.title}, {summary.data.examples:,} images"
            yield [name, source, *(_cell(found[c], model.published.get(c)) for c in columns)]
        elif model.name in kind.missing:
            yield [name, f"{kind.measured.title}: not {_verb(kind.missing[model.name])} yet", *[""] * len(columns)]
        else:
            continue
        name = ""


def _verb(command: str) -> str:
    return "trained" if command.startswith("robench train") else "measured"


def _cells(table: PaperTable, summary: Summary) -> dict[str, Cell]:
    """The cells of a run, whose union and average are those of the paper's column."""
    every = cells(Row(summary.model.name, (summary,)))
    united = cells(Row(summary.model.name, (restricted(summary, table.united or table.threats),)))
    return every | {column: united[column] for column in ("union", "average") if column in united}


def _published(numbers: Mapping[str, float], column: str) -> str:
    return percent(numbers[column]) if column in numbers else "–"


def _cell(cell: Cell, published: float | None) -> str:
    low, high = cell.ci95
    apart = published is not None and not low <= published <= high
    return cell.text(intervals=True) + (MASKED if cell.masked else "") + (f" {APART}" if apart else "")


def _optima(table: PaperTable, kinds: Sequence[Kind], columns: Sequence[str]) -> Iterator[list[str]]:
    """The rows OPT: the accuracy of the models of a single threat, each on its own."""
    name = "OPT"
    if table.optimum:
        yield [name, "published", *(_published(table.optimum, column) for column in columns)]
        name = ""
    for kind in kinds:
        for group in questions(list(kind.summaries.values())):
            made = main_table(group, origins=kind.origins)
            if made.last:
                *_, optimum = made.cells(lambda text, marks: text + MASKED * ("masked" in marks))
                row = dict(zip(made.columns, optimum, strict=True))
                yield [name, kind.measured.title, *(row.get(column, "") for column in columns)]
                name = ""


def _about(kind: Kind) -> Iterator[str]:
    """Sentences on the question of each run, the verdicts on masking, and remarks."""
    for group in questions(list(kind.summaries.values())):
        sentences = [s for s in main_table(group, origins=kind.origins).footer if s not in EACH]
        yield f"{kind.measured.title}: {sentences[0]}"
        yield from sentences[1:]


def _hours(kind: Kind, name: str) -> float | None:
    summary = kind.summaries.get(name)
    return None if summary is None else kind.origins.get(summary.model.name, Origin()).hours


def _multiple(hours: float | None, base: float | None) -> str:
    return "" if not hours or not base else f"{hours / base:.1f}"
