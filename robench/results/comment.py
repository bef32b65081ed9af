"""The report of the gate: Markdown for a pull request, JUnit XML, annotations for GitHub."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from xml.etree import ElementTree

from tabulate import tabulate

from ..errors import are, counted
from .gate import GateRow, GateVerdict, Judgement, letters_of
from .merging import precisions
from .outcomes import Outcome
from .summary import Summary
from .tables.cells import MASKED

NAMED = 20  # examples of one attack in the comment; JUnit names them all
BEFORE = "wrong before any attack"
ANNOTATIONS = {GateVerdict.REGRESSION.value: "error", GateVerdict.UNDECIDED.value: "warning"}
MARKS = {GateVerdict.REGRESSION.value: "**regression**"}


@dataclass(frozen=True)
class Comment:
    """A judgement, and the data that support it."""

    judgement: Judgement
    before: Summary
    now: Summary
    numbers: tuple[int, ...]  # of the examples, in the order of the outcomes
    broken: Mapping[str, Mapping[int, str]]  # by threat and example: the attack that broke it first
    unchanged: bool = False  # the model is that of the baseline
    exhausted: bool = False  # there are no further examples

    @property
    def unmeasured(self) -> bool:
        """Whether it is undecided because examples are open, and not because there are too few."""
        judged = (row for row in self.judgement.rows if row.allowance is not None)
        return self.judgement.verdict is GateVerdict.UNDECIDED and any(row.pairs.open for row in judged)

    @property
    def heading(self) -> str:
        """The verdict, or `not measured`."""
        return "not measured" if self.unmeasured else self.judgement.verdict.value

    def markdown(self) -> str:
        """A heading with the verdict, the table, the lost examples, and notes for the reader."""
        rows = [self._cells(row) for row in self.judgement.rows]
        headers = ["", "baseline", "now", "drop", "allowed", "verdict"]
        align = ["left", "right", "right", "right", "right", "left"]
        table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=align)
        flips = [f"- {_line(row.name)}: {text}" for row in self.judgement.rows if (text := self.flips(row, NAMED))]
        lost = ["Held in the baseline and do not now:\n\n" + "\n".join(flips)] if flips else []
        notes = "\n".join(f"- {sentence}" for sentence in self.sentences())
        title = f"### robench check: {self.heading}"
        return "\n\n".join([title, table, *lost, notes]) + "\n"

    def sentences(self) -> Iterator[str]:
        """Sentences on what was compared, and how to read the table."""
        now, was = self.now, self.before
        yield (
            f"{_line(now.model.name)} ({now.model.weights_sha256[:8]}) against {_line(was.model.name)}"
            f" ({was.model.weights_sha256[:8]}): the same {counted(len(self.numbers), 'example')}"
            f" of {_line(now.data.name)}, protocol {_line(now.protocol)}, seed {now.seed}."
        )
        if self.unchanged:
            yield "The model is that of the baseline, to its weights and answers: nothing was attacked again."
            if left := max(letters.count(Outcome.OPEN) for letters in letters_of(was).values()):
                yield f"{are(left, 'example')} open in the baseline (≤); finish it to know."
        searched, before = precisions(now.environment), precisions(was.environment)
        if searched and before and searched != before:
            yield (
                f"Searched in {_line(' and '.join(searched))}, the baseline in {_line(' and '.join(before))}: single"
                " outcomes may differ for this alone."
            )
        yield (
            "Shares in percent, upper bounds on robust accuracy; drops in percentage points, with the lower end of the"
            f" one-sided {self._interval()} interval. A regression: that end exceeds what is allowed."
        )
        judged = sum(row.allowance is not None for row in self.judgement.rows)
        if judged > 1:
            yield (
                f"{judged} rows are judged: with Holm's correction a false alarm in any is no likelier than"
                f" {100 * self.judgement.level:g} %."
            )
        still_open = max(row.pairs.open for row in self.judgement.rows)
        if still_open and self.judgement.verdict is GateVerdict.UNDECIDED:
            where = " in the baseline" if all(Outcome.OPEN not in row.pairs.now for row in self.judgement.rows) else ""
            yield f"{are(still_open, 'example')} open{where}; evaluated to the end, it may be decided."
        elif still_open:
            outcome = "no outcome of the examples still open (≤) could change the verdict."
            yield outcome.capitalize() if any(t.failures for t in now.threats) else f"Stopped early: {outcome}"
        if any(t.masking.verdict in MASKED for t in (*was.threats, *now.threats)):
            yield "† gradients are masked, or may be, so a stronger attack may find more."
        for row in self.judgement.rows:
            if row.more is not None and row.verdict is GateVerdict.UNDECIDED:
                yield (
                    f"{_line(row.name)}: about {row.more:,} further examples would decide, if they flip as"
                    f" these do{', but there are no further ones to measure on' if self.exhausted else ''}."
                )
        for threat in now.threats:
            for failure in threat.failures:
                yield (
                    f"{_line(failure.attack)} under {_line(threat.threat)} failed on"
                    f" {counted(failure.examples, 'example')} ({_line(failure.error)}), counted as open."
                )
        if was.masking.verdict != "untested" and now.masking.verdict == "untested":
            yield (
                "The baseline was checked for gradient masking, and what that found is in its numbers; this run was"
                " not, so a drop may be hidden. Make the baseline with --masking off."
            )
        yield from (f"New, not noted of the baseline: {_line(note)}." for note in self.new_notes())

    def new_notes(self) -> list[str]:
        """The notes on this run that the baseline has not: a model that masks its gradients can hold every row."""
        return [note for note in self.now.notes if note not in self.before.notes]

    def flips(self, row: GateRow, limit: int | None = None) -> str:
        """The examples that held and do not now, by what broke them. Those of the union are under its threats."""
        if row.name == "union":
            return ""
        by: dict[str, list[int]] = {}
        for place in row.pairs.lost():
            number = self.numbers[place]
            wrong = row.pairs.now[place] == Outcome.WRONG
            cause = BEFORE if wrong else self.broken.get(row.name, {}).get(number, "an attack")
            by.setdefault(cause, []).append(number)
        parts = []
        for cause in sorted(by, key=lambda c: (c != BEFORE, c)):
            shown = by[cause][:limit]
            more = len(by[cause]) - len(shown)
            listed = ", ".join(map(str, shown)) + (f" and {more} more" if more else "")
            parts.append(f"{listed} ({_line(cause)})")
        return "; ".join(parts)

    def junit(self) -> str:
        """One test case per judged row: a regression is a failure, an undecided row an error."""
        judged = [row for row in self.judgement.rows if row.verdict is not None]
        words = [self._word(row) for row in judged]
        kinds = {
            GateVerdict.REGRESSION.value: "failure",
            GateVerdict.UNDECIDED.value: "error",
            "not finished": "skipped",
        }
        counts = {
            "failures": words.count(GateVerdict.REGRESSION.value),
            "errors": words.count(GateVerdict.UNDECIDED.value),
            "skipped": words.count("not finished"),
        }
        suite = ElementTree.Element("testsuite", name="robench check", tests=str(len(judged)))
        for key, number in counts.items():
            suite.set(key, str(number))
        for row, word in zip(judged, words, strict=True):
            case = ElementTree.SubElement(suite, "testcase", classname=f"robench.{_plain(self.now.model.name)}")
            case.set("name", _plain(row.name))
            if word in kinds:
                result = ElementTree.SubElement(case, kinds[word], message=_plain(self._sentence(row)))
                result.text = _plain(self.flips(row) or self._sentence(row))
        ElementTree.indent(suite)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"

    def annotations(self) -> str:
        """One command of GitHub's runners for each row that does not hold, or one for all if they hold."""
        lines = []
        for row in self.judgement.rows:
            kind = ANNOTATIONS.get(self._word(row))
            if kind:
                flips = self.flips(row, NAMED)
                text = self._sentence(row) + (f". {flips}" if flips else "")
                lines.append(f"::{kind} title=robench check::{_escaped(text)}")
        lines += [f"::warning title=robench check::{_escaped(_plain(note))}" for note in self.new_notes()]
        if not lines:
            lines = [f"::notice title=robench check::{_escaped('no regression: ' + next(self.sentences()))}"]
        return "\n".join(lines) + "\n"

    def _sentence(self, row: GateRow) -> str:
        before, now, drop = self._shares(row)
        assert row.allowance is not None, "only judged rows are reported"
        allowed = f"{100 * float(row.allowance):g}"
        return (
            f"{self._word(row)}: {row.name} went from {before} to {now} %, a drop of {drop} pp; allowed are {allowed}"
        )

    def _word(self, row: GateRow) -> str:
        """The verdict on a row, or `not finished` if a regression elsewhere ended the search."""
        left = (
            row.verdict is GateVerdict.UNDECIDED and self.judgement.verdict is GateVerdict.REGRESSION and row.pairs.open
        )
        return "not finished" if left else row.verdict.value if row.verdict else ""

    def _cells(self, row: GateRow) -> list[str]:
        before, now, drop = self._shares(row)
        allowed = "" if row.allowance is None else f"{100 * float(row.allowance):g}"
        return [_line(row.name), before, now, drop, allowed, MARKS.get(self._word(row), self._word(row))]

    def _shares(self, row: GateRow) -> tuple[str, str, str]:
        """The shares before and now, and the drop between them with the lower end of its interval."""
        drop = _points(row.drop) if row.drop == row.max_drop else f"{_points(row.drop)} to {_points(row.max_drop)}"
        # Truncated, not rounded: the printed number never exceeds the proven one.
        end = "" if self.unchanged else f" (≥ {int(1000 * row.lower_end // 1) / 10:.1f})"
        if self.unchanged:  # for the verdict, open examples stand before and now
            before = now = letters_of(self.before)[row.name]
        else:
            before, now = row.pairs.before, row.pairs.now
        return _share(before, self.before, row.name), _share(now, self.now, row.name), drop + end

    def _interval(self) -> str:
        levels = sorted({row.level for row in self.judgement.rows if row.allowance is not None}, reverse=True)
        return " or ".join(f"{100 * (1 - level):.4g} %" for level in levels)


def _share(letters: str, summary: Summary, name: str) -> str:
    """The share that stands, as a bound while examples are open, and marked if gradients are masked, or may be."""
    entries = [threat for threat in summary.threats if threat.threat == name]
    if not all(entry.measured for entry in entries):
        return "not measured"
    still_open = letters.count(Outcome.OPEN)
    share = (letters.count(Outcome.STANDING) + still_open) / len(letters)
    verdict = summary.masking.verdict if name == "union" else entries[0].masking.verdict if entries else ""
    return f"{'≤ ' if still_open else ''}{100 * share:.1f}{'†' if verdict in MASKED else ''}"


def _points(share: Fraction) -> str:
    return f"{100 * float(share):.1f}"


def _line(text: str) -> str:
    """The text in one line, with its markup escaped, for a table cell or a list."""
    return re.sub(r"([|<>`*_\[\]\\])", r"\\\1", " ".join(text.split()))


def _plain(text: str) -> str:
    """The text without the characters that XML does not allow."""
    return "".join(c if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\U0010ffff" else "?" for c in text)


def _escaped(text: str) -> str:
    """The text in one line, escaped: GitHub's runner reads one command per line."""
    return " ".join(text.split()).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
