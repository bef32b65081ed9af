"""Whether a model has become less robust than a baseline says: the same question asked again, outcomes in pairs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path

import torch

from .. import __version__
from ..api import EvalResult
from ..errors import UserError
from ..evidence.records import ModelRecord
from ..evidence.store import RunFile, is_run_file
from ..problem import datasets, durable, threats
from ..problem.classifier import Classifier
from ..problem.datasets.preparation import Preparation
from ..problem.split import Source, Split
from ..protocols import Protocol, ThreatChoice, rebuilt
from ..results.comment import Comment
from ..results.contradictions import numbers
from ..results.gate import LEVEL, GateVerdict, Judgement, broken_by, judge, letters_of, paired, same_function
from ..results.merging import precisions
from ..results.summary import MAX_BYTES, ModelEntry, Summary, ThreatEntry, model_entry, summarise
from ..search.engine.precision import PRECISIONS, checked, has_hardware
from ..search.own_attack import Consent

Evaluate = Callable[[Split, Callable[[Summary], bool] | None], EvalResult]
"""Says what becomes of these examples of one model, under the baseline's protocol; no more than is enough."""


@dataclass(frozen=True)
class Baseline:
    """A measured model to compare with: a summary file, or a run file as one."""

    path: Path
    summary: Summary

    @property
    def rows(self) -> list[str]:
        """What may fall: clean, every threat, and with two or more their union."""
        names = [t.threat for t in self.summary.threats]
        return ["clean", *names, *(["union"] if len(names) > 1 else [])]

    def is_of(self, classifier: Classifier) -> bool:
        """Whether this is the very model that was measured."""
        return same_function(self.summary.model, entry_of(classifier))


@dataclass(frozen=True)
class Question:
    """What the baseline asked, ready to be asked again."""

    whole: Source  # all examples of its data
    split: Split  # those it is about
    protocol: Protocol
    data: str  # as `--data` names it
    preparation: Preparation


def read_baseline(path: Path) -> Baseline:
    """A baseline from what `robench evaluate --json` wrote, or from a run file.

    Raises UserError when there is none, it is damaged, or it cannot be compared with.
    """
    if not path.is_file():
        raise UserError(f"there is no baseline {path}; write one with robench evaluate CHECKPOINT --json {path}")
    summary = _summary(path)
    if not summary.data.examples:
        raise UserError(f"the baseline {path} is about no example; write it again with robench evaluate")
    if not summary.threats:
        raise UserError(f"the baseline {path} names no threat; write it again with robench evaluate")
    if summary.unanswered:
        raise UserError(
            f"the baseline {path} was stopped before anything was measured; finish it with robench evaluate"
        )
    if not summary.data.numbers or any(not a.spec or not a.items for t in summary.threats for a in t.attacks):
        raise UserError(
            f"the baseline {path} does not say all that it asked; write it again with this robench evaluate"
        )
    return Baseline(path, summary)


def question(
    baseline: Baseline,
    data: str | None = None,
    preparation: Preparation | None = None,
    consent: Consent | None = None,
) -> Question:
    """The baseline's examples and protocol. Raises UserError when these data are not the baseline's.

    An attack in a file is part of the protocol only where the user consents to run it; without, that is an error.
    """
    entry = baseline.summary.data
    text = data or _data_of(baseline)
    preparation = datasets.prepared(text, preparation, baseline.summary.environment)
    whole = datasets.source(text, preparation=preparation)
    rows = {number: row for row, number in enumerate(whole.numbers)}
    numbers = _numbers(baseline)
    if missing := [number for number in numbers if number not in rows]:
        raise UserError(
            f"{whole.name} has no example {missing[0]}, which the baseline {baseline.path} is about;"
            f" name {entry.name} with --data"
        )
    split = whole.take([rows[number] for number in numbers])
    if split.sha256 != entry.sha256:
        raise UserError(
            f"the examples {entry.numbers} of {whole.name} ({split.sha256[:8]}) are not those of the baseline"
            f" {baseline.path} ({entry.name}, {entry.sha256[:8]}); name its data with --data"
        )
    return Question(whole, split, _protocol(baseline, split.classes, consent), text, preparation)


def precision_for(baseline: Baseline, named: str | None, device: torch.device) -> str:
    """The precision of the search: the one that is named, else the baseline's where this device has hardware for it.

    Elsewhere `auto`; the comment says so where the two differ. Raises UserError for a name that is none.
    """
    precision, recorded = checked(named, device), precisions(baseline.summary.environment)
    if precision != "auto" or len(recorded) != 1:
        return precision
    same = recorded[0]
    return same if same == "float32" or (same in PRECISIONS and has_hardware(same, device)) else precision


def entry_of(classifier: Classifier) -> ModelEntry:
    """A model as a summary names it."""
    i = classifier.identity()
    record = ModelRecord(classifier.name, i.weights_sha256, i.architecture, i.normalisation, i.fingerprint)
    return model_entry(record)


def unchanged(baseline: Baseline, allowances: Mapping[str, Fraction]) -> Comment:
    """The verdict on the model of the baseline itself: the same function cannot have dropped, and is not attacked."""
    summary = baseline.summary
    # What is open then is open now, and would come to the same.
    same = {name: letters.replace("O", "S") for name, letters in letters_of(summary).items()}
    judgement = judge(paired(same, same), allowances)
    return Comment(judgement, summary, summary, _numbers(baseline), {}, unchanged=True)


def compare(
    baseline: Baseline,
    asked: Question,
    allowances: Mapping[str, Fraction],
    ask: Evaluate,
    ask_baseline: Evaluate | None = None,
) -> tuple[Comment, bool]:
    """The verdict, and whether the model was let answer to the end.

    The search stops when no outcome of what is still open can change the verdict. With `ask_baseline`, which asks the
    baseline's model, an undecided verdict is followed up with as many further examples again, until it is decided or
    there are none. Then the j-th look is at level / 2**j: all looks together raise a false alarm no more often than one
    without would.
    """
    before, split = letters_of(baseline.summary), asked.split
    for look in count(1):
        level = LEVEL / 2**look if ask_baseline else LEVEL
        gate = _Gate(baseline, before, allowances, level)
        answer = ask(split, gate.certain)
        if answer.summary.unanswered:
            raise UserError("stopped before anything was measured; the same command begins again")
        rest = [row for row, number in enumerate(asked.whole.numbers) if number not in set(split.numbers)]
        comment = Comment(
            *(gate.judge(answer.summary), baseline.summary, answer.summary, split.numbers, _broken_by(answer)),
            exhausted=not rest,
        )
        decided = comment.judgement.verdict is not GateVerdict.UNDECIDED
        if ask_baseline is None or decided or answer.summary.union.open or not answer.finished or not rest:
            return comment, answer.finished
        more = asked.whole.take(rest[: len(split)])
        told = ask_baseline(more, None)
        if told.summary.clean.open or told.summary.union.open:
            return comment, told.finished
        _refuse_another_question(baseline, told.summary)
        before = {name: before[name] + letters for name, letters in letters_of(told.summary).items()}
        rows = {number: row for row, number in enumerate(asked.whole.numbers)}
        split = asked.whole.take([rows[number] for number in (*split.numbers, *more.numbers)])
    raise AssertionError("a data set ends")


def refuse_another_model(baseline: Baseline, classifier: Classifier, checkpoint: str) -> None:
    """Raises UserError when this is not the model that the baseline measured."""
    if not baseline.is_of(classifier):
        raise UserError(
            f"{checkpoint} is not the model of the baseline {baseline.path} ({baseline.summary.model.name}, weights"
            f" {baseline.summary.model.weights_sha256[:8]}), which further examples need; name it with --baseline-model"
        )


@dataclass(frozen=True)
class _Gate:
    """The judge of one look."""

    baseline: Baseline
    before: Mapping[str, str]  # the outcomes of the baseline's model, by row
    allowances: Mapping[str, Fraction]
    level: float

    def judge(self, now: Summary) -> Judgement:
        _refuse_another_question(self.baseline, now)
        return judge(paired(self.before, letters_of(now)), self.allowances, self.level)

    def certain(self, now: Summary) -> bool:
        """Whether what is open may turn out as it likes: the judge has counted it for or against already."""
        return self.judge(now).verdict is not GateVerdict.UNDECIDED


def _refuse_another_question(baseline: Baseline, now: Summary) -> None:
    """What is compared was asked alike, but for the passes over which answers of a random model are averaged."""

    def asked(entry: ThreatEntry) -> list[tuple[str, str, int]]:
        return [(a.name, rebuilt.split(a.spec)[0], a.items) for a in entry.attacks]

    for was, entry in zip(baseline.summary.threats, now.threats, strict=True):
        if (was.threat, asked(was)) != (entry.threat, asked(entry)):
            raise UserError(
                f"this robench asks about {entry.threat} otherwise than the baseline {baseline.path} did about"
                f" {was.threat}; write the baseline again with robench evaluate"
            )


def _broken_by(answer: EvalResult) -> dict[str, dict[int, str]]:
    return {t.threat: broken_by(answer.plan, answer.evidence, t.threat) for t in answer.plan.threats}


def _summary(path: Path) -> Summary:
    if is_run_file(path):
        with RunFile.read(path) as run:
            plan = run.plan()
            if plan is None:
                raise UserError(f"the baseline {path} holds no plan: it was stopped before it began; start it again")
            return summarise(plan, run.evidence(), __version__)
    try:
        return Summary.from_json(durable.read(path, MAX_BYTES))
    except UserError as error:
        raise UserError(f"the baseline {path} cannot be read: {error}") from None


def _numbers(baseline: Baseline) -> tuple[int, ...]:
    return numbers(baseline.summary.data)


def _data_of(baseline: Baseline) -> str:
    """The baseline's data by name, or from the file it was read from where that is here too."""
    name = baseline.summary.data.name
    told = baseline.summary.environment.get("data", "")
    return told if told and Path(told).exists() else name


def _protocol(baseline: Baseline, classes: int, consent: Consent | None) -> Protocol:
    """The protocol, from the attacks with every number that the baseline names; no protocol file is needed."""
    summary = baseline.summary
    passes = {rebuilt.split(a.spec)[1] for t in summary.threats for a in t.attacks} - {None}
    choices = (
        ThreatChoice(
            threats.parse(t.threat), tuple(rebuilt.attack(a.name, a.spec, a.items, classes, consent) for a in t.attacks)
        )
        for t in summary.threats
    )
    eot = passes.pop() if len(passes) == 1 else None
    return Protocol(summary.protocol, "", "", None, summary.seed, tuple(choices), eot)
