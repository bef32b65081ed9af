"""What the gate says: Markdown for a pull request, JUnit XML, GitHub's annotations."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from xml.etree import ElementTree

from tabulate import tabulate

from ..errors import are, counted
from .gate import Judgement, Row, Verdict
from .merging import precisions
from .outcomes import Outcome
from .summary import Summary

NAMED = 20  # examples of one attack in the comment; JUnit names them all
BEFORE = "wrong before any attack"
ANNOTATIONS = {Verdict.REGRESSION.value: "error", Verdict.UNDECIDED.value: "warning"}
MARKS = {Verdict.REGRESSION.value: "**regression**"}


@dataclass(frozen=True)
class Comment:
    """A judgement with what a reader needs to believe it."""

    judgement: Judgement
    before: Summary
    now: Summary
    numbers: tuple[int, ...]  # of the examples, in the order of the outcomes
    felled: Mapping[str, Mapping[int, str]]  # by threat and example: the attack that broke it first
    unchanged: bool = False  # the very model of the baseline
    exhausted: bool = False  # there are no further examples

    @property
    def unmeasured(self) -> bool:
        """Whether it is undecided because examples are open, and not because there are too few."""
        judged = (row for row in self.judgement.rows if row.allowance is not None)
        return self.judgement.verdict is Verdict.UNDECIDED and any(row.pairs.open for row in judged)

    @property
    def heading(self) -> str:
        """The verdict, or that there is none."""
        return "not measured" if self.unmeasured else self.judgement.verdict.value

    def markdown(self) -> str:
        """A heading with the verdict, the table, the examples that fell, and how to read it."""
        rows = [self._cells(row) for row in self.judgement.rows]
        headers = ["", "baseline", "now", "drop", "allowed", "verdict"]
        align = ["left", "right", "right", "right", "right", "left"]
        table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=align)
        flips = [f"- {_line(row.name)}: {text}" for row in self.judgement.rows if (text := self.flips(row, NAMED))]
        fallen = ["Held in the baseline and do not now:\n\n" + "\n".join(flips)] if flips else []
        said = "\n".join(f"- {sentence}" for sentence in self.sentences())
        title = f"### robench check: {self.heading}"
        return "\n\n".join([title, table, *fallen, said]) + "\n"

    def sentences(self) -> Iterator[str]:
        """What was compared, and how to read it."""
        now, was = self.now, self.before
        yield (
            f"{_line(now.model.name)} ({now.model.weights_sha256[:8]}) against {_line(was.model.name)}"
            f" ({was.model.weights_sha256[:8]}): the same {counted(len(self.numbers), 'example')}"
            f" of {_line(now.data.name)}, protocol {_line(now.protocol)}, seed {now.seed}."
        )
        if self.unchanged:
            yield "The model is that of the baseline, to its weights and answers: nothing was attacked again."
            if left := was.union.open:
                yield f"{are(left, 'example')} open in the baseline, and shown as standing; finish it to know."
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
        if still_open and self.judgement.verdict is Verdict.UNDECIDED:
            where = " in the baseline" if all(Outcome.OPEN not in row.pairs.now for row in self.judgement.rows) else ""
            yield f"{are(still_open, 'example')} open{where}; evaluated to the end, it may be decided."
        elif still_open:
            yield "Stopped early: no outcome of the examples still open (≤) could change the verdict."
        for row in self.judgement.rows:
            if row.more is not None and row.verdict is Verdict.UNDECIDED:
                yield (
                    f"{_line(row.name)}: about {row.more:,} further examples would decide, if they flip as"
                    f" these do{', but the data hold no more' if self.exhausted else ''}."
                )
        for threat in now.threats:
            for failure in threat.failures:
                yield (
                    f"{_line(failure.attack)} under {_line(threat.threat)} failed on"
                    f" {counted(failure.examples, 'example')} ({_line(failure.error)}), counted as open."
                )

    def flips(self, row: Row, most: int | None = None) -> str:
        """The examples that held and do not now, by what felled them; those of the union stand under its threats."""
        if row.name == "union":
            return ""
        by: dict[str, list[int]] = {}
        for place in row.pairs.lost():
            number = self.numbers[place]
            wrong = row.pairs.now[place] == Outcome.WRONG
            cause = BEFORE if wrong else self.felled.get(row.name, {}).get(number, "an attack")
            by.setdefault(cause, []).append(number)
        parts = []
        for cause in sorted(by, key=lambda c: (c != BEFORE, c)):
            shown = by[cause][:most]
            more = len(by[cause]) - len(shown)
            listed = ", ".join(map(str, shown)) + (f" and {more} more" if more else "")
            parts.append(f"{listed} ({_line(cause)})")
        return "; ".join(parts)

    def junit(self) -> str:
        """One test case per judged row: a regression is a failure, an undecided row an error."""
        judged = [row for row in self.judgement.rows if row.verdict is not None]
        words = [self._word(row) for row in judged]
        kinds = {Verdict.REGRESSION.value: "failure", Verdict.UNDECIDED.value: "error", "not finished": "skipped"}
        counts = {
            "failures": words.count(Verdict.REGRESSION.value),
            "errors": words.count(Verdict.UNDECIDED.value),
            "skipped": words.count("not finished"),
        }
        suite = ElementTree.Element("testsuite", name="robench check", tests=str(len(judged)))
        for key, number in counts.items():
            suite.set(key, str(number))
        for row, word in zip(judged, words, strict=True):
            case = ElementTree.SubElement(suite, "testcase", classname=f"robench.{_plain(self.now.model.name)}")
            case.set("name", _plain(row.name))
            if word in kinds:
                told = ElementTree.SubElement(case, kinds[word], message=_plain(self._told(row)))
                told.text = _plain(self.flips(row) or self._told(row))
        ElementTree.indent(suite)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"

    def annotations(self) -> str:
        """A line per row that does not hold, in the language of GitHub's runners; if all do, one that says so."""
        lines = []
        for row in self.judgement.rows:
            kind = ANNOTATIONS.get(self._word(row))
            told = self._told(row) + (f". {flips}" if (flips := self.flips(row, NAMED)) else "") if kind else ""
            lines += [f"::{kind} title=robench check::{_escaped(told)}"] if kind else []
        if not lines:
            lines = [f"::notice title=robench check::{_escaped('no regression: ' + next(self.sentences()))}"]
        return "\n".join(lines) + "\n"

    def _told(self, row: Row) -> str:
        before, now, drop = self._shares(row)
        assert row.allowance is not None, "only judged rows are told"
        allowed = f"{100 * float(row.allowance):g}"
        return (
            f"{self._word(row)}: {row.name} went from {before} to {now} %, a drop of {drop} pp; allowed are {allowed}"
        )

    def _word(self, row: Row) -> str:
        """The verdict on a row; where a regression elsewhere ended the search, there is none yet."""
        left = row.verdict is Verdict.UNDECIDED and self.judgement.verdict is Verdict.REGRESSION and row.pairs.open
        return "not finished" if left else row.verdict.value if row.verdict else ""

    def _cells(self, row: Row) -> list[str]:
        before, now, drop = self._shares(row)
        allowed = "" if row.allowance is None else f"{100 * float(row.allowance):g}"
        return [_line(row.name), before, now, drop, allowed, MARKS.get(self._word(row), self._word(row))]

    def _shares(self, row: Row) -> tuple[str, str, str]:
        """Before, now and the drop between them, with the lower end of its interval."""
        drop = _points(row.drop) if row.drop == row.most else f"{_points(row.drop)} to {_points(row.most)}"
        # Cut, not rounded: what is printed is never more than what was shown.
        end = "" if self.unchanged else f" (≥ {int(1000 * row.at_least // 1) / 10:.1f})"
        return _share(row.pairs.before), _share(row.pairs.now), drop + end

    def _interval(self) -> str:
        levels = sorted({row.level for row in self.judgement.rows if row.allowance is not None}, reverse=True)
        return " or ".join(f"{100 * (1 - level):.4g} %" for level in levels)


def _share(letters: str) -> str:
    still_open = letters.count(Outcome.OPEN)
    share = (letters.count(Outcome.STANDING) + still_open) / len(letters)
    return f"{'≤ ' if still_open else ''}{100 * share:.1f}"


def _points(share: Fraction) -> str:
    return f"{100 * float(share):.1f}"


def _line(text: str) -> str:
    """In a table cell or a list, nothing may end the line or open markup of its own."""
    return re.sub(r"([|<>`*_\[\]\\])", r"\\\1", " ".join(text.split()))


def _plain(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(c if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\U0010ffff" else "?" for c in text)


def _escaped(text: str) -> str:
    """One line: GitHub's runner reads a command per line."""
    return " ".join(text.split()).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
