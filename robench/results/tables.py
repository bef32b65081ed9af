"""What a reader sees: a row per model, a column per threat, and below it in words what the numbers mean."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import pandas as pd
from tabulate import tabulate

from ..errors import UserError, unknown
from .intervals import Interval
from .summary import CleanEntry, Summary, ThreatEntry, UnionEntry

UPPER_BOUND = "Percent of all examples standing after this protocol: upper bounds on robust accuracy."
INTERVALS = "In brackets 95 % intervals for this protocol; for true robustness only the upper end of an interval holds."
EARLY_STOP = "An attack met only what still stood at its turn; how strong each is alone, --every-attack measures."


@dataclass(frozen=True)
class Table:
    """Cells as they are printed, and the sentences around them."""

    frame: pd.DataFrame
    caption: str = ""
    footer: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Caption, table and footer, a blank line between them, a newline at the end."""
        cells = [[_cell(value) for value in row] for row in self.frame.itertuples(index=False)]
        headers = [_cell(column) for column in self.frame.columns]
        # Text columns first, then numbers; numparse would turn 0.0 into 0.
        align = ["left" if column in ("model", "threat", "attack") else "right" for column in headers]
        body = tabulate(cells, headers, tablefmt="pipe", disable_numparse=True, colalign=align if cells else None)
        parts = [self.caption, body if cells else "", "\n".join(self.footer)]
        return "\n\n".join(part for part in parts if part) + "\n"


def main_tables(summaries: Sequence[Summary], intervals: bool = False) -> list[Table]:
    """One table for each set of summaries that answer the same question, in the order they come.

    Models asked about different examples, or under different threats or attacks, are never in one table.
    """
    groups: dict[tuple[object, ...], list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(_question(summary), []).append(summary)
    captioned = len(groups) > 1
    return [main_table(group, intervals, _caption(group[0]) if captioned else "") for group in groups.values()]


def main_table(summaries: Sequence[Summary], intervals: bool = False, caption: str = "") -> Table:
    """A row per model: clean, each threat, and with two threats or more their union and average, in percent.

    With `intervals`, 95 % intervals follow in brackets. All summaries must answer the same question.
    """
    first = summaries[0]
    assert {_question(s) for s in summaries} == {_question(first)}, "one table holds one question"
    names = _names(summaries)
    rows = [{"model": name, **_row(s, intervals)} for name, s in zip(names, summaries, strict=True)]
    prefixes = [f"{name}, " if len(summaries) > 1 else "" for name in names]
    remarks = [prefix + remark for prefix, s in zip(prefixes, summaries, strict=True) for remark in _remarks(s)]
    return Table(pd.DataFrame(rows), caption, (*_about(summaries, intervals), *remarks))


def breakdown(summary: Summary) -> Table:
    """A row per threat and attack: what it was tried on, what it broke, what was left, what it cost.

    What is left is an accuracy in percent where the attack ran on every correct example, else a count.
    """
    rows = []
    for threat in summary.threats:
        for a in threat.attacks:
            row = {"threat": threat.threat, "attack": a.name, "tried": str(a.tried), "broken": str(a.broken)}
            row["left"] = f"{a.standing} of {a.tried} standing" if a.accuracy is None else _percent(a.accuracy)
            if summary.every_attack:
                row["alone"] = "" if a.alone is None else str(a.alone)
            row |= {"seconds": f"{a.seconds:.1f}", "forwards": f"{a.forwards:,}", "backwards": f"{a.backwards:,}"}
            rows.append(row)
    footer = [] if summary.every_attack else [EARLY_STOP]
    footer += [
        f"{t.threat}: {_count(t.elsewhere, 'more example')} broken by an image found under another threat or by an"
        " attack not listed."
        for t in summary.threats
        if t.elsewhere
    ]
    return Table(pd.DataFrame(rows), f"Attacks on {summary.model.name}", tuple(footer if rows else ["No attack ran."]))


def render(
    summaries: Sequence[Summary], form: str = "markdown", *, intervals: bool = False, attacks: bool = False
) -> str:
    """Summaries as text: markdown, csv or json; `attacks` adds the breakdown.

    CSV holds fractions, a row per model and threat (with `attacks`: and attack). JSON is the summary file;
    several summaries make a list. Raises UserError for an unknown form, or when there is nothing to report.
    """
    if not summaries:
        raise UserError("there is nothing to report; name at least one run file")
    if form not in FORMS:
        raise unknown("format", form, FORMS)
    return FORMS[form](summaries, intervals, attacks)


def attack_frame(summary: Summary) -> pd.DataFrame:
    """The breakdown in numbers: a row per threat and attack, with the fields of the summary file."""
    about = {"model": summary.model.name, "data": summary.data.name, "examples": summary.data.examples}
    about |= {"protocol": summary.protocol, "seed": summary.seed}
    rows = [
        {**about, "threat": t.threat, **_renamed(msgspec.structs.asdict(a))} for t in summary.threats for a in t.attacks
    ]
    frame = pd.DataFrame(rows)
    return frame.astype({"alone": "Int64", "accuracy": "float64"}) if rows else frame


def _markdown(summaries: Sequence[Summary], intervals: bool, attacks: bool) -> str:
    tables = main_tables(summaries, intervals)
    if attacks:
        tables += [breakdown(summary) for summary in summaries]
    return "\n".join(table.markdown() for table in tables)


def _csv(summaries: Sequence[Summary], intervals: bool, attacks: bool) -> str:
    frames = [attack_frame(s) if attacks else s.to_frame() for s in summaries]
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled).to_csv(index=False, lineterminator="\n") if filled else "\n"


def _json(summaries: Sequence[Summary], intervals: bool, attacks: bool) -> str:
    if len(summaries) == 1:
        return summaries[0].to_json()
    return msgspec.json.format(msgspec.json.encode(list(summaries)), indent=2).decode() + "\n"


FORMS: dict[str, Callable[[Sequence[Summary], bool, bool], str]] = {"markdown": _markdown, "csv": _csv, "json": _json}


def _question(summary: Summary) -> tuple[object, ...]:
    """Summaries with equal questions may stand in one table. A seed is no part of the question."""
    attacks = tuple((t.threat, tuple((a.name, a.spec) for a in t.attacks)) for t in summary.threats)
    return summary.data, summary.protocol, attacks


def _caption(summary: Summary) -> str:
    attacks = "; ".join(f"{t.threat} by {', '.join(a.name for a in t.attacks)}" for t in summary.threats)
    data = f"{_count(summary.data.examples, 'example')} of {summary.data.name} ({summary.data.sha256[:8]})"
    return f"**{data}, protocol {summary.protocol}: {attacks or 'no attack'}**"


def _names(summaries: Sequence[Summary]) -> list[str]:
    """Model names, told apart by their weights where two are the same."""
    often = Counter(s.model.name for s in summaries)
    return [
        f"{s.model.name} ({s.model.weights_sha256[:8]})" if often[s.model.name] > 1 else s.model.name for s in summaries
    ]


def _row(summary: Summary, intervals: bool) -> dict[str, str]:
    cells = {"clean": _bounded(summary.clean, intervals)}
    cells |= {t.threat: _bounded(t, intervals) for t in summary.threats}
    if len(summary.threats) > 1:  # the union and the average of one threat are that threat
        mean = summary.average
        assert mean.accuracy is not None, "threats have an average"
        assert mean.ci95 is not None, "threats have an average"
        bound = "≤ " if any(t.open for t in summary.threats) else ""
        cells["union"] = _bounded(summary.union, intervals)
        cells["average"] = bound + _share(mean.accuracy, mean.ci95, intervals)
    return cells


def _bounded(entry: CleanEntry | ThreatEntry | UnionEntry, intervals: bool) -> str:
    text = _share(entry.accuracy, entry.ci95, intervals)
    return f"≤ {text} ({entry.open} open)" if entry.open else text


def _share(accuracy: float, ci95: Interval, intervals: bool) -> str:
    low, high = ci95
    return f"{_percent(accuracy)} [{_percent(low)}, {_percent(high)}]" if intervals else _percent(accuracy)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _about(summaries: Sequence[Summary], intervals: bool) -> list[str]:
    """What was asked, and how to read the answer."""
    first = summaries[0]
    seeds = sorted({s.seed for s in summaries})
    examples = _count(first.data.examples, "example")
    lines = [f"{examples} of {first.data.name}; protocol {first.protocol}; {_listed('seed', seeds)}."]
    lines.append(UPPER_BOUND if first.threats else "No threat was planned: accuracy before any attack.")
    if intervals:
        lines.append(INTERVALS)
    if any(s.clean.open or s.union.open for s in summaries) and first.threats:
        lines.append("≤: searches are still to do; examples counted as open may yet break.")
    verdicts = sorted({t.masking.verdict for s in summaries for t in s.threats})
    if verdicts:
        lines.append(f"Gradient masking: {', '.join(verdicts)}.")
    return lines


def _remarks(summary: Summary) -> Iterable[str]:
    """What a reader should know about one row, a sentence each."""
    if at_random := summary.environment.get("randomness"):
        sentence = _line(at_random)
        yield f"{sentence[:1].upper()}{sentence[1:]}."
    for t in summary.threats:
        for r in t.rejections:
            sentence = r.reason or r.rejection
            yield f"{r.attack} on {t.threat}: {_count(r.claims, 'claim')} rejected ({_line(sentence)})."
        for f in t.failures:
            yield f"{f.attack} on {t.threat}: failed on {_count(f.examples, 'example')} ({_line(f.error)})."
        if t.nan:
            yield f"{t.threat}: the model answered NaN in searches on {_count(t.nan, 'example')}; NaN breaks nobody."
        if t.ties:
            yield f"{t.threat}: {_count(t.ties, 'example')} broken by a tie between two classes."
    if summary.ties:
        yield f"clean: {_count(summary.ties, 'prediction')} tied between two classes."
    if summary.nan:
        yield f"clean: {_count(summary.nan, 'prediction')} not a number."


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _listed(noun: str, numbers: Sequence[int]) -> str:
    plural = noun if len(numbers) == 1 else noun + "s"
    return f"{plural} {', '.join(map(str, numbers))}"


def _renamed(fields: dict[str, object]) -> dict[str, object]:
    return {"attack" if key == "name" else key: value for key, value in fields.items()}


def _cell(value: object) -> str:
    """A bar or a line break inside a name would break the table."""
    return _line(str(value)).replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split())
