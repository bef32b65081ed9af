"""The summary file of a run. Fields are only ever added, and added fields have a default."""

from collections.abc import Callable

import msgspec
import pandas as pd

from .. import renames
from ..errors import UserError
from ..evidence.records import Count, Seconds, Total
from .attack_rows import AttackEntry, FailureEntry, RejectionEntry
from .contradictions import contradiction
from .masking.indicators import IndicatorEntry
from .masking.verdict import MaskingVerdict
from .outcomes import Outcome
from .stats.intervals import Interval

SCHEMA = "robench.summary/1"
MAX_BYTES = 2**28  # of a summary file: a hundred thousand examples under ten threats take a hundredth of it


class ModelEntry(msgspec.Struct, frozen=True):
    """The evaluated classifier."""

    name: str
    weights_sha256: str
    architecture: str
    normalisation: str = ""
    fingerprint: str = ""  # some of its logits on fixed images, four digits each


class DataEntry(msgspec.Struct, frozen=True):
    """The examples; the hash is of these examples in this order."""

    name: str
    examples: Count
    sha256: str
    numbers: str = ""  # of the examples in the data set, as slices: 0:200, or 0:10 12:14


class CleanEntry(msgspec.Struct, frozen=True):
    """The result before any attack. While examples are open, accuracy counts them as correct."""

    accuracy: float
    ci95: Interval
    correct: Count
    open: Count = 0
    error: str = ""  # what the model raised on the first of the open examples


class CurveEntry(msgspec.Struct, frozen=True):
    """Accuracy by radius; empty if it was not measured."""

    radius: tuple[float, ...] = ()
    accuracy: tuple[float, ...] = ()


class MaskingEntry(msgspec.Struct, frozen=True):
    """The verdict on gradient masking: masked, suspect, none-found or untested. None of them rules it out."""

    verdict: MaskingVerdict = "untested"
    evidence: tuple[str, ...] = ()


class ThreatMaskingEntry(msgspec.Struct, frozen=True):
    """The verdict on masking under one threat, with the command that would show more."""

    verdict: MaskingVerdict = "untested"
    evidence: tuple[str, ...] = ()
    next: str = ""
    indicators: tuple[IndicatorEntry, ...] | msgspec.UnsetType = msgspec.UNSET  # absent if nothing was measured


class ThreatEntry(msgspec.Struct, frozen=True):
    """One threat.

    Accuracy is the share of all examples neither wrong nor broken, an upper bound; the interval reaches
    from the lower end for the standing to the upper end for the standing and open together.
    """

    threat: str
    accuracy: float
    ci95: Interval
    wrong: Count
    broken: Count
    standing: Count
    open: Count
    outcomes: str  # a letter per example, in split order
    rejected: dict[str, Count]  # claims, by Rejection
    attacks: tuple[AttackEntry, ...]
    curve: CurveEntry
    masking: ThreatMaskingEntry
    rejections: tuple[RejectionEntry, ...] = ()
    failures: tuple[FailureEntry, ...] = ()
    elsewhere: Count = 0  # broken by evidence from outside the plan: another attack, or another radius
    by_claim: Count = 0  # of `elsewhere`, those that only images from files broke: robench claim
    ties: Count = 0  # broken only by images on which the correct class ties with a wrong one
    nan: Count = 0  # examples on which the model answered NaN during a search
    failed: Count = 0  # of the open examples, those on which an attack raised

    @property
    def measured(self) -> bool:
        """False where each planned attack failed, and none broke an example or ran to its end on one."""
        failed = {f.attack for f in self.failures}
        without_result = all(a.name in failed and not a.broken and not a.standing for a in self.attacks)
        return not failed or not without_result or self.broken > 0


class UnionEntry(msgspec.Struct, frozen=True):
    """All threats together: standing means standing under each."""

    accuracy: float
    ci95: Interval
    wrong: Count
    broken: Count
    standing: Count
    open: Count
    outcomes: str
    failed: Count = 0  # of the open examples, those on which an attack raised


class AverageEntry(msgspec.Struct, frozen=True):
    """The mean over threats; null when no threat is planned."""

    accuracy: float | None
    ci95: Interval | None


class CostEntry(msgspec.Struct, frozen=True):
    """What the planned attacks took: seconds, and rows through the network."""

    seconds: Seconds
    forwards: Total
    backwards: Total


class Summary(msgspec.Struct, frozen=True):
    """One model, one set of examples, one protocol. Accuracies are fractions."""

    schema: str
    robench: str
    model: ModelEntry
    data: DataEntry
    protocol: str
    seed: int
    clean: CleanEntry
    threats: tuple[ThreatEntry, ...]
    union: UnionEntry
    average: AverageEntry
    masking: MaskingEntry
    cost: CostEntry
    environment: dict[str, str]
    every_attack: bool = False
    ties: Count = 0  # clean predictions on which two classes tie
    nan: Count = 0  # clean predictions that are not a number
    notes: tuple[str, ...] = ()  # cautions for a reader of the numbers, sentences without a full stop

    def to_json(self) -> str:
        """The summary file: indented by two spaces, a newline at the end."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode() + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Summary":
        """Reads a summary file, also of a later version: unknown fields are ignored.

        Raises UserError if the text is something else, or contradicts itself.
        """
        try:
            summary = msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"this is not a summary file ({error}); write one with robench evaluate --json") from None
        if summary.schema != SCHEMA:
            raise UserError(f"this summary file says {summary.schema!r}; this version of robench reads {SCHEMA!r}")
        if why := contradiction(summary):
            raise UserError(f"this summary file is damaged: {why}")
        summary.refuse_unreadable()
        return _renamed(_with_open_answers(summary))

    def refuse_unreadable(self) -> None:
        """Raises UserError for a name that cannot be shown, and for an attack without a name."""
        labels = [attack.name for threat in self.threats for attack in threat.attacks]
        for name in (self.model.name, self.data.name, self.protocol, *labels):
            if not name.isprintable():
                raise UserError(f"the name {name[:100]!a} holds characters that cannot be shown")
        if "" in labels:
            raise UserError("an attack has no name")

    def _repr_html_(self) -> str | None:
        """The table that `robench evaluate` prints, for a notebook; None if nothing has registered how to make it."""
        return _notebook_view(self) if _notebook_view is not None else None

    def __str__(self) -> str:
        """The same table as text, for `print`; the fields, as `repr` shows them, if nothing has registered it."""
        return _text_view(self) if _text_view is not None else repr(self)

    @property
    def unanswered(self) -> bool:
        """Whether no clean image has an answer: the run was stopped before anything was measured."""
        return self.clean.open == self.data.examples

    def about(self) -> dict[str, str | float]:
        """The first columns of every numeric table: the model and the question."""
        return {
            "model": self.model.name,
            "weights": self.model.weights_sha256,
            "data": self.data.name,
            "examples": self.data.examples,
            "protocol": self.protocol,
            "seed": self.seed,
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per threat, then the union and the average. Shares are fractions; `low` and `high` end the ci95.

        While examples are `open`, an accuracy is an upper bound, and so is `clean` while there are `clean_open`. Where
        every planned attack failed, or none is planned, there is no accuracy. `open` of the average is over all threats
        together.
        """
        measured = [t.measured for t in self.threats]
        none = None, None, None
        entries: list[tuple[str, ThreatEntry | UnionEntry, bool, str]] = [
            *((t.threat, t, t.measured, t.masking.verdict) for t in self.threats),
            ("union", self.union, any(measured), self.masking.verdict),
        ]
        rows: list[tuple[str | float | None, ...]] = [
            (name, *((e.accuracy, *e.ci95) if known else none), e.wrong, e.broken, e.standing, e.open, verdict)
            for name, e, known, verdict in entries
        ]
        average = (self.average.accuracy, *self.average.ci95) if self.average.ci95 and all(measured) else none
        left = sum(t.open for t in self.threats)
        rows.append(("average", *average, None, None, None, left, self.masking.verdict))
        counts = ["wrong", "broken", "standing", "open"]
        shares = ["accuracy", "low", "high"]
        frame = pd.DataFrame(rows, columns=["threat", *shares, *counts, "masking"])
        for column, (name, value) in enumerate({**self.about(), "clean": self.clean.accuracy}.items()):
            frame.insert(column, name, value)
        frame["clean_open"] = self.clean.open
        return frame.astype(dict.fromkeys(counts, "Int64") | dict.fromkeys(shares, "float64"))

    def examples(self) -> pd.DataFrame:
        """One row per example and threat, in their order: the number of the example, the threat, and the outcome.

        Outcomes are `wrong` before any attack, `broken`, `standing` and `open`; `robench export` writes more columns.
        Raises UserError if an older summary file does not hold the numbers of its examples.
        """
        numbers = [n for part in self.data.numbers.split() for n in range(*map(int, part.split(":")))]
        if len(numbers) != self.data.examples:
            raise UserError(
                "this summary does not hold the numbers of its examples; write it again with robench report"
            )
        rows = [
            (number, entry.threat, Outcome(letter).name.lower())
            for entry in self.threats
            for number, letter in zip(numbers, entry.outcomes, strict=True)
        ]
        return pd.DataFrame(rows, columns=["example", "threat", "outcome"]).astype({"example": "int64"})


_notebook_view: Callable[[Summary], str] | None = None
_text_view: Callable[[Summary], str] | None = None


def register_views(notebook: Callable[[Summary], str], text: Callable[[Summary], str]) -> None:
    """Show summaries in notebooks as this HTML, and print them as this text. Tables import this module, so it cannot
    import them.
    """
    global _notebook_view, _text_view
    _notebook_view, _text_view = notebook, text


def _with_open_answers(summary: Summary) -> Summary:
    """The summary with the number of open clean answers, which the first versions did not record."""
    answered = summary.clean.correct + summary.union.outcomes.count(Outcome.WRONG)
    clean = msgspec.structs.replace(summary.clean, open=summary.data.examples - answered)
    return msgspec.structs.replace(summary, clean=clean)


def _renamed(summary: Summary) -> Summary:
    """The summary with the present names of models and attacks."""
    put = msgspec.structs.replace
    threats = (
        put(
            t,
            attacks=tuple(put(a, name=renames.attack(a.name), spec=renames.spec(a.spec)) for a in t.attacks),
            rejections=tuple(put(r, attack=renames.attack(r.attack)) for r in t.rejections),
            failures=tuple(put(f, attack=renames.attack(f.attack)) for f in t.failures),
        )
        for t in summary.threats
    )
    return put(
        summary,
        model=put(summary.model, name=renames.model(summary.model.name)),
        threats=tuple(threats),
        environment=renames.environment(summary.environment),
    )
