"""Tables for readers: a row per model, a column per threat, and a footer that explains the numbers."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import pandas as pd

from ...errors import UserError, counted, unknown
from ..masking.verdict import WORST_FIRST, MaskingVerdict
from ..merging import precisions
from ..stats.comparison import ranks
from ..summary import Summary
from .breakdown import across, attack_frame, breakdown
from .cells import MASKED, Cell, cells, percent
from .contingency import contingency, contingency_frame
from .latex import latex
from .panel import panel
from .published import published
from .seeds import Origin, Origins, PublishedClaim, Row, names, rows, spread
from .table import Mark, Table, line
from .webpage import page

__all__ = [
    "FORMS",
    "Origin",
    "PublishedClaim",
    "Table",
    "attack_frame",
    "breakdown",
    "main_table",
    "main_tables",
    "render",
]

UPPER_BOUND = "Percent of all examples standing after this protocol: upper bounds on robust accuracy."
INTERVALS = "In brackets 95 % intervals for this protocol; for true robustness only the upper end of an interval holds."
RANKED = (
    "Bold: best of a column, and all not significantly worse (95 %, paired on the same examples). Underlined: best of"
    " the rest."
)
DOUBTFUL = "† or red: gradients are masked, or may be, so a stronger attack may find more."
HOURS = "hours: of training according to the models' cards, including that of a model it started from."


def main_tables(
    summaries: Sequence[Summary], intervals: bool = False, origins: Origins | None = None, side_by_side: bool = False
) -> list[Table]:
    """One table for each set of summaries that answer the same question, in their order.

    Summaries about different examples, threats or attacks are never in one table. With `side_by_side` the answers to
    two questions are in one table side by side; raises UserError if there are more or fewer.
    """
    groups = questions(summaries)
    captioned = len(groups) > 1
    tables = [main_table(group, intervals, _caption(group[0]) if captioned else "", origins) for group in groups]
    if not side_by_side:
        return tables
    if len(tables) != 2:
        what = "one question" if len(tables) == 1 else f"{len(tables)} questions"
        raise UserError(f"--side-by-side shows the answers to two questions; these runs answer {what}")
    return [replace(tables[0], side=tables[1])]


def main_table(
    summaries: Sequence[Summary], intervals: bool = False, caption: str = "", origins: Origins | None = None
) -> Table:
    """A row per model: clean, each threat, and with two threats or more their union and average, in percent.

    With `intervals`, 95 % intervals follow in brackets. All summaries must answer the same question; those that
    differ only in their seed share a row. `origins` hold, by the name of a model, its training threats and hours.
    With two rows or more, the best are marked and hours come last. If for each threat there is a model trained on it
    alone, a last row OPT shows the accuracy of each such model on its own threat; for the union the smallest of these,
    for the average the mean (Tramèr and Boneh 2019, section 4).
    """
    origins = origins or {}
    assert len(questions(summaries)) == 1, "one table holds one question"
    lines = rows(summaries, origins)
    table = [cells(row) for row in lines]
    columns = list(table[0])
    texts = [
        [row.name, *(row_cells[c].text(intervals) for c in columns)]
        for row, row_cells in zip(lines, table, strict=True)
    ]
    marks = _marks(table, columns)
    frame = pd.DataFrame(texts, columns=["model", *columns])
    about = _about(summaries, lines, intervals, table)
    about += [RANKED] if any(mark & {"best", "second"} for mark in marks.values()) else []
    optimum = _optimum(lines, table, origins) if len(lines) > 1 else None
    if optimum is not None:
        frame.loc[len(frame)] = ["OPT", *(optimum.cells.get(column, "") for column in columns)]
        about.append(optimum.sentence)
        masked = [place for place, column in enumerate(columns, start=1) if column in optimum.masked]
        marks |= {(len(lines), place): frozenset[Mark]({"masked"}) for place in masked}
    hours = [_hours(row, origins) for row in lines] if len(lines) > 1 else []
    if any(hours):
        frame["hours"] = [*hours, ""] if optimum is not None else hours
        about.append(HOURS)
    footer = (*about, *_masking(summaries), *_all_remarks(summaries))
    return Table(frame, caption, footer, marks, last=int(optimum is not None))


def render(
    summaries: Sequence[Summary],
    form: str = "markdown",
    *,
    intervals: bool = False,
    attacks: bool = False,
    together: bool = False,
    side_by_side: bool = False,
    origins: Origins | None = None,
    masking: bool = False,
    claimed: bool = False,
) -> str:
    """Summaries as text: markdown, latex, html, csv or json.

    `attacks` adds the tables of attacks, `together` the one of outcomes over threats; `side_by_side` shows two
    questions side by side; `origins` describe the training of models; `masking` adds the panels on gradient masking,
    `claimed` published numbers of such models. CSV is one table of fractions and counts, a row per model and threat
    (with `attacks`: and attack; with `together`: per combination of threats). JSON is the summary file; several
    summaries make a list. Raises UserError for an unknown form, for content that a form cannot show, and without
    summaries.
    """
    if not summaries:
        raise UserError("there is nothing to report; name at least one run file")
    if form not in FORMS:
        raise unknown("format", form, FORMS)
    if form in PAGES:
        tables = main_tables(summaries, intervals, origins, side_by_side)
        for group in questions(summaries):
            claims = published(group, origins or {}) if claimed else None
            tables += [] if claims is None else [claims]
            tables += [contingency(group)] if together else []
            tables += [across(group)] if attacks and len(group) > 1 else []
        tables += [breakdown(summary) for summary in summaries] if attacks else []
        tables += list(_panels(summaries)) if masking else []
        return PAGES[form](tables)
    if side_by_side:
        raise UserError(f"{form} holds numbers and no layout; leave --side-by-side out, or choose {', '.join(PAGES)}")
    if claimed:
        raise UserError(f"{form} holds what was measured; leave --claimed out, or choose {', '.join(PAGES)}")
    if masking and form == "csv":
        raise UserError(f"csv holds one table of numbers; leave --masking out, or choose {', '.join(PAGES)} or json")
    return _json(summaries) if form == "json" else _csv(summaries, attacks, together)


def questions(summaries: Sequence[Summary]) -> list[list[Summary]]:
    """Groups of summaries that answer the same question, in their order. The seed is no part of the question."""
    groups: dict[tuple[object, ...], list[Summary]] = {}
    for summary in summaries:
        attacks = tuple(
            (t.threat, tuple((a.name, a.spec, a.items, a.near, a.sample) for a in t.attacks)) for t in summary.threats
        )
        data = summary.data.name, summary.data.examples, summary.data.sha256
        groups.setdefault((data, summary.protocol, attacks), []).append(summary)
    return list(groups.values())


def _markdown(tables: Sequence[Table]) -> str:
    return "\n".join(table.markdown() for table in tables)


def _csv(summaries: Sequence[Summary], attacks: bool, together: bool) -> str:
    if attacks and together:
        raise UserError("csv holds one table; leave --breakdown or --together out")
    read: Callable[[Summary], pd.DataFrame] = Summary.to_frame
    if attacks or together:
        read = attack_frame if attacks else contingency_frame
    filled = [frame for frame in map(read, summaries) if len(frame)]
    return pd.concat(filled).to_csv(index=False, lineterminator="\n") if filled else "\n"


def _json(summaries: Sequence[Summary]) -> str:
    if len(summaries) == 1:
        return summaries[0].to_json()
    return msgspec.json.format(msgspec.json.encode(list(summaries)), indent=2).decode() + "\n"


PAGES: dict[str, Callable[[Sequence[Table]], str]] = {"markdown": _markdown, "latex": latex, "html": page}
FORMS = (*PAGES, "csv", "json")


@dataclass(frozen=True)
class _Optimum:
    """The row OPT, and the sentence that explains it."""

    cells: dict[str, str]
    masked: frozenset[str]  # columns whose gradients are masked, or may be
    sentence: str


def _optimum(lines: Sequence[Row], table: Sequence[Mapping[str, Cell]], origins: Origins) -> _Optimum | None:
    """The row, if there are two threats or more and each has a measured model that was trained on it alone.

    Of several such models the one with the highest accuracy counts, and one with a bound only if all have bounds.
    """
    threats = [t.threat for t in lines[0].runs[0].threats]
    own: dict[str, tuple[str, Cell]] = {}
    for row, row_cells in zip(lines, table, strict=True):
        trained = {origins.get(run.model.name, Origin()).threats for run in row.runs}
        for threat in threats:
            cell = row_cells[threat]
            if trained != {(threat,)} or not cell.measured:
                continue
            if threat not in own or (not cell.bound, cell.mean) > (not own[threat][1].bound, own[threat][1].mean):
                own[threat] = row.name, cell
    if len(threats) < 2 or len(own) < len(threats):
        return None
    shares = [own[threat][1].mean for threat in threats]
    texts = {threat: _bounded(cell.mean, cell.bound) for threat, (_, cell) in own.items()}
    bound = any(cell.bound for _, cell in own.values())
    texts |= {"union": _bounded(min(shares), bound), "average": _bounded(sum(shares) / len(shares), bound)}
    masked = frozenset(threat for threat, (_, cell) in own.items() if cell.masked)
    models = ", ".join(f"{own[threat][0]} on {threat}" for threat in threats)
    sentence = f"OPT, without a trade-off: {models}; the smallest of these for the union, the mean for the average."
    return _Optimum(texts, masked | {"union", "average"} if masked else masked, sentence)


def _bounded(share: float, bound: bool) -> str:
    return f"≤ {percent(share)}" if bound else percent(share)


def _marks(table: Sequence[Mapping[str, Cell]], columns: Sequence[str]) -> dict[tuple[int, int], frozenset[Mark]]:
    marks: dict[tuple[int, int], frozenset[Mark]] = {}
    for j, column in enumerate(columns, start=1):  # after the names
        ranked = ranks([row[column].scores for row in table])
        for i, (row, rank) in enumerate(zip(table, ranked, strict=True)):
            found: set[Mark] = {"masked"} if row[column].masked else set()
            found |= {"best"} if rank == "best" else {"second"} if rank == "second" else set()
            if found:
                marks[i, j] = frozenset(found)
    return marks


def _hours(row: Row, origins: Origins) -> str:
    known = [hours for run in row.runs if (hours := origins.get(run.model.name, Origin()).hours) is not None]
    if len(known) < len(row.runs):
        return ""
    mean, deviation = spread(known)
    return f"{mean:.2f} ± {deviation:.2f}" if row.of == "training" else f"{mean:.2f}"


def _caption(summary: Summary) -> str:
    attacks = "; ".join(f"{t.threat} by {', '.join(a.name for a in t.attacks)}" for t in summary.threats)
    data = f"{counted(summary.data.examples, 'example')} of {summary.data.name} ({summary.data.sha256[:8]})"
    return f"{data}, protocol {summary.protocol}: {attacks or 'no attack'}"


def _about(
    summaries: Sequence[Summary], lines: Sequence[Row], intervals: bool, table: Sequence[Mapping[str, Cell]]
) -> list[str]:
    """Sentences on the question, and on how to read the answer."""
    first = summaries[0]
    seeds = sorted({s.seed for s in summaries})
    examples = counted(first.data.examples, "example")
    sentences = [f"{examples} of {first.data.name}; protocol {first.protocol}; {_listed('seed', seeds)}."]
    sentences.append(UPPER_BOUND if first.threats else "No threat was planned: accuracy before any attack.")
    if intervals and any(len(row.runs) == 1 for row in lines):
        sentences.append(INTERVALS)
    if first.threats and any(cell.bound and cell.measured for row in table for cell in row.values()):
        ranked = " Such bounds are not ranked." if len(lines) > 1 else ""
        left = [cell for row in table for cell in row.values() if cell.measured]
        why = "searches are still to do; examples counted as open may yet break"
        if any(cell.failed for cell in left):
            to_do = "are still to do, or " if any(cell.open for cell in left) else ""
            counted_as = "open or failed" if to_do else "failed"
            why = f"searches {to_do}ended with an error; examples counted as {counted_as} may yet break"
        sentences.append(f"≤: {why}.{ranked}")
    for of in sorted({row.of for row in lines if row.of}):
        sentences.append(f"±: standard deviation over seeds of the {of}, behind their mean.")
    return sentences


def _masking(summaries: Sequence[Summary]) -> Iterable[str]:
    """The verdicts, worst first; if they differ, all but one with the threats and models that they concern."""
    found = Counter(t.masking.verdict for s in summaries for t in s.threats)
    if found:
        rest = max(WORST_FIRST, key=lambda verdict: (found[verdict] > 0, verdict not in MASKED, found[verdict]))
        named = [
            f"{verdict} {_under(verdict, summaries)}" for verdict in WORST_FIRST if found[verdict] and verdict != rest
        ]
        yield f"Gradient masking: {'; '.join([*named, f'{rest} elsewhere'] if named else [rest])}."
    if {*MASKED} & {*found, *(s.masking.verdict for s in summaries)}:
        yield DOUBTFUL


def _under(verdict: MaskingVerdict, summaries: Sequence[Summary]) -> str:
    """The threats with this verdict; for several models with the model."""
    places = []
    for name, summary in zip(names(summaries), summaries, strict=True):
        threats = [t.threat for t in summary.threats if t.masking.verdict == verdict]
        if threats:
            places.append(f"{f'for {name} ' if len(summaries) > 1 else ''}under {', '.join(threats)}")
    return ", ".join(places)


def _panels(summaries: Sequence[Summary]) -> Iterable[Table]:
    """One panel for each run; for several questions, with its question in the title."""
    several = len(questions(summaries)) > 1
    for name, summary in zip(names(summaries), summaries, strict=True):
        yield panel(summary, f"{name}: {_caption(summary)}" if several else name)


def _all_remarks(summaries: Sequence[Summary]) -> Iterable[str]:
    for name, summary in zip(names(summaries), summaries, strict=True):
        prefix = f"{name}, " if len(summaries) > 1 else ""
        yield from (prefix + remark for remark in remarks(summary))


def remarks(summary: Summary) -> Iterable[str]:
    """Remarks on one row, a sentence each."""
    if at_random := summary.environment.get("randomness"):
        sentence = line(at_random)
        yield f"{sentence[:1].upper()}{sentence[1:]}."
    for note in summary.notes:
        yield f"Note: {line(note)}."
    if summary.clean.error:
        yield f"clean: the model raises on {counted(summary.clean.open, 'example')} ({line(summary.clean.error)})."
    if len(searched := precisions(summary.environment)) > 1:
        yield f"Searched partly in {line(' and partly in '.join(searched))}: single outcomes may depend on which."
    for t in summary.threats:
        for r in t.rejections:
            sentence = r.reason or r.rejection
            yield f"{r.attack} on {t.threat}: {counted(r.claims, 'claim')} rejected ({line(sentence)})."
        for f in t.failures:
            yield f"{f.attack} on {t.threat}: failed on {counted(f.examples, 'example')} ({line(f.error)})."
        if t.nan:
            seen = counted(t.nan, "example")
            yield f"{t.threat}: the model answered NaN in searches on {seen}; NaN is no misclassification."
        if t.by_claim:
            yield f"{t.threat}: {counted(t.by_claim, 'example')} broken by images from files alone (robench claim)."
        if t.ties:
            yield f"{t.threat}: {counted(t.ties, 'example')} broken by a tie between two classes."
    if summary.ties:
        yield f"clean: {counted(summary.ties, 'prediction')} tied between two classes."
    if summary.nan:
        yield f"clean: {counted(summary.nan, 'prediction')} not a number."


def _listed(noun: str, numbers: Sequence[int]) -> str:
    plural = noun if len(numbers) == 1 else noun + "s"
    return f"{plural} {', '.join(map(str, numbers))}"
