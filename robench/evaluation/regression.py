"""The CI gate: whether a model is less robust than a baseline.

The question of the baseline is evaluated on the model, and outcomes are compared in pairs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path

import torch

from ..errors import UserError
from ..evidence.attack_key import AttackKey
from ..evidence.records import ModelRecord
from ..evidence.store import is_run_file
from ..problem import datasets, durable, threats
from ..problem.datasets.preparation import Preparation
from ..problem.missing import missing
from ..problem.split import Source, Split
from ..problem.subsets import held_out, of_training
from ..protocols import Protocol, ThreatChoice, rebuilt
from ..results.comment import Comment
from ..results.contradictions import numbers
from ..results.gate import LEVEL, GateVerdict, Judgement, broken_by, judge, letters_of, paired, same_function
from ..results.measured import unmeasured
from ..results.merging import precisions
from ..results.summarising import model_entry
from ..results.summary import MAX_BYTES, Summary, ThreatEntry
from ..search.engine.precision import PRECISIONS, checked, has_hardware
from ..search.own_attack import Consent
from .model_source import ModelSource
from .prepared import EvalResult, PreparedEvaluation, StopCriterion, prepare
from .recorded import recorded_summary
from .request import EvalRequest

Evaluate = Callable[[Split, StopCriterion | None], EvalResult]
"""Evaluates one model on these examples under the baseline's protocol, until the stop criterion is met."""


@dataclass(frozen=True)
class Baseline:
    """A measured model to compare with: a summary file, or a run file as one."""

    path: Path
    summary: Summary

    @property
    def rows(self) -> list[str]:
        """The accuracies that may drop: clean, each threat, and with two threats or more their union."""
        names = [t.threat for t in self.summary.threats]
        return ["clean", *names, *(["union"] if len(names) > 1 else [])]

    def is_of(self, model: ModelRecord) -> bool:
        """Whether this is the same model, by its weights and its logits."""
        return same_function(self.summary.model, model_entry(model))


@dataclass(frozen=True)
class Question:
    """What the baseline was evaluated on, ready to be evaluated on another model."""

    baseline: Baseline
    whole: Source  # all examples of its data
    split: Split  # those it is about
    protocol: Protocol
    data: str  # as `--data` names it
    preparation: Preparation

    def prepare(
        self, source: ModelSource, precision: str | None = None, split: Split | None = None, *, command: str = ""
    ) -> PreparedEvaluation:
        """The evaluation of a model on the baseline's examples, or on those of `split`.

        Raises UserError for an unknown precision, and for a model that cannot be loaded.
        """
        request = EvalRequest(
            data=self.data,
            seed=self.baseline.summary.seed,
            precision=precision_for(self.baseline, precision, source.device),
            preparation=self.preparation,
        )
        return prepare(request, source, (split or self.split, self.protocol), command=command)


def read_baseline(path: Path) -> Baseline:
    """A baseline from what `robench evaluate --json` wrote, or from a run file.

    Raises UserError when the file is missing or damaged, or no model can be compared with it.
    """
    if not path.is_file():
        raise missing("baseline", path)
    summary = _summary(path)
    if not summary.data.examples:
        raise UserError(f"the baseline {path} is about no example; write it again with robench evaluate")
    if not summary.threats:
        raise UserError(f"the baseline {path} names no threat; write it again with robench evaluate")
    if failed := unmeasured(summary):
        raise UserError(
            f"the baseline {path} measured nothing under {failed[0].threat}, where every planned attack failed; write"
            " it again with robench evaluate"
        )
    if summary.unanswered:
        raise UserError(
            f"the baseline {path} was stopped before anything was measured; finish it with robench evaluate"
        )
    if not summary.data.numbers or any(not a.spec or not a.items for t in summary.threats for a in t.attacks):
        raise UserError(
            f"the baseline {path} lacks a part of its question (examples or attacks); write it again with this robench"
            " evaluate"
        )
    return Baseline(path, summary)


def question(
    baseline: Baseline,
    data: str | None = None,
    preparation: Preparation | None = None,
    consent: Consent | None = None,
) -> Question:
    """The baseline's examples and protocol. Raises UserError when these data are not the baseline's.

    It also raises UserError for an attack in a file that the user does not consent to run.
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
    return Question(baseline, whole, split, _protocol(baseline, split.classes, consent), text, preparation)


def precision_for(baseline: Baseline, named: str | None, device: torch.device) -> str:
    """The precision of the search: the named one, else the baseline's where this device has hardware for it.

    Otherwise `auto`; the comment says so where the two differ. Raises UserError for an unknown name.
    """
    precision, recorded = checked(named, device), precisions(baseline.summary.environment)
    if precision != "auto" or len(recorded) != 1:
        return precision
    same = recorded[0]
    return same if same == "float32" or (same in PRECISIONS and has_hardware(same, device)) else precision


def unchanged(baseline: Baseline, allowances: Mapping[str, Fraction]) -> Comment:
    """The verdict on the model of the baseline itself: the same function cannot have dropped, and is not attacked."""
    summary = baseline.summary
    # Examples that were open then are open now, and would have the same outcomes.
    same = {name: letters.replace("O", "S") for name, letters in letters_of(summary).items()}
    judgement = judge(paired(same, same), allowances)
    return Comment(judgement, summary, summary, _numbers(baseline), {}, unchanged=True)


def _further(whole: Source, split: Split) -> list[int]:
    """The rows of further examples. Images held out have none: the models may have been trained on all others."""
    used = set(split.numbers)
    if of_training(whole.name) and used == {whole.numbers[row] for row in held_out(len(whole), len(used))}:
        return []
    return [row for row, number in enumerate(whole.numbers) if number not in used]


def compare(
    question: Question,
    allowances: Mapping[str, Fraction],
    evaluate: Evaluate,
    evaluate_baseline: Evaluate | None = None,
) -> tuple[Comment, bool]:
    """The verdict, and whether the model was evaluated to the end.

    The search stops when no outcome of an open example can change the verdict. With `evaluate_baseline`, which
    evaluates the baseline's model, an undecided verdict is followed by as many further examples again, until it is
    decided or there are none. The j-th stage then tests at level / 2**j, so that all stages together raise a false
    alarm no more often than a single one would (Bonferroni).
    """
    baseline, whole = question.baseline, question.whole
    before, split = letters_of(baseline.summary), question.split
    for stage in count(1):
        level = LEVEL / 2**stage if evaluate_baseline else LEVEL
        gate = _Gate(baseline, before, allowances, level)
        result = evaluate(split, gate.decided)
        if result.summary.unanswered:
            raise UserError("stopped before anything was measured; the same command starts again")
        rest = _further(whole, split)
        comment = Comment(
            *(gate.judge(result.summary), baseline.summary, result.summary, split.numbers, _broken_by(result)),
            exhausted=not rest,
        )
        decided = comment.judgement.verdict is not GateVerdict.UNDECIDED
        if evaluate_baseline is None or decided or result.summary.union.open or not result.finished or not rest:
            return comment, result.finished
        more = whole.take(rest[: len(split)])
        further = evaluate_baseline(more, None)
        if further.summary.clean.open or further.summary.union.open:
            return comment, further.finished
        _refuse_another_question(baseline, further.summary)
        before = {name: before[name] + letters for name, letters in letters_of(further.summary).items()}
        rows = {number: row for row, number in enumerate(whole.numbers)}
        split = whole.take([rows[number] for number in (*split.numbers, *more.numbers)])
    raise AssertionError("a data set ends")


def refuse_another_model(baseline: Baseline, model: ModelRecord, checkpoint: str) -> None:
    """Raises UserError when this is not the model that the baseline measured."""
    if not baseline.is_of(model):
        raise UserError(
            f"{checkpoint} is not the model of the baseline {baseline.path} ({baseline.summary.model.name}, weights"
            f" {baseline.summary.model.weights_sha256[:8]}), which further examples need; name it with --baseline-model"
        )


@dataclass(frozen=True)
class _Gate:
    """The test of one stage."""

    baseline: Baseline
    before: Mapping[str, str]  # the outcomes of the baseline's model, by row
    allowances: Mapping[str, Fraction]
    level: float

    def judge(self, now: Summary) -> Judgement:
        _refuse_another_question(self.baseline, now)
        return judge(paired(self.before, letters_of(now)), self.allowances, self.level)

    def decided(self, now: Summary) -> bool:
        """Whether open examples can no longer change the verdict: `judge` counts each in its worse and better case."""
        return self.judge(now).verdict is not GateVerdict.UNDECIDED


def _refuse_another_question(baseline: Baseline, now: Summary) -> None:
    """Attacks must be the same, except for the number of passes that searches on a stochastic model average over."""

    def planned(entry: ThreatEntry) -> list[tuple[str, str, int, float | None, int | None]]:
        return [(a.name, str(AttackKey.parse(a.spec).unaveraged), a.items, a.near, a.sample) for a in entry.attacks]

    for was, entry in zip(baseline.summary.threats, now.threats, strict=True):
        if (was.threat, planned(was)) != (entry.threat, planned(entry)):
            raise UserError(
                f"this robench evaluates {entry.threat} otherwise than the baseline {baseline.path} did {was.threat};"
                " write the baseline again with robench evaluate"
            )


def _broken_by(result: EvalResult) -> dict[str, dict[int, str]]:
    return {t.threat: broken_by(result.plan, result.evidence, t.threat) for t in result.plan.threats}


def _summary(path: Path) -> Summary:
    if is_run_file(path):
        return recorded_summary(path, "the baseline ")
    try:
        return Summary.from_json(durable.read(path, MAX_BYTES))
    except UserError as error:
        raise UserError(f"the baseline {path} cannot be read: {error}") from None


def _numbers(baseline: Baseline) -> tuple[int, ...]:
    return numbers(baseline.summary.data)


def _data_of(baseline: Baseline) -> str:
    """The baseline's data by name, or the file they were read from where it exists here."""
    file = baseline.summary.environment.get("data", "")
    return file if file and Path(file).exists() else baseline.summary.data.name


def _protocol(baseline: Baseline, classes: int, consent: Consent | None) -> Protocol:
    """The protocol, from the baseline's attacks with every number; no protocol file is needed."""
    summary = baseline.summary
    passes = {AttackKey.parse(a.spec).passes for t in summary.threats for a in t.attacks} - {None}
    choices = (
        ThreatChoice(
            threats.parse(t.threat),
            tuple(
                rebuilt.attack(a.name, a.spec, a.items, classes, consent, near=a.near, sample=a.sample)
                for a in t.attacks
            ),
        )
        for t in summary.threats
    )
    eot = passes.pop() if len(passes) == 1 else None
    return Protocol(summary.protocol, "", "", None, summary.seed, tuple(choices), eot)
