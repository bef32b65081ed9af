"""`robench check`: the gate for CI."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UserError
from ..evaluation.environment import pick_device
from ..evaluation.model_source import CheckpointSource
from ..evaluation.prepared import EvalResult, PreparedEvaluation, StopCriterion
from ..evaluation.regression import (
    Baseline,
    Evaluate,
    Question,
    compare,
    question,
    read_baseline,
    refuse_another_model,
    unchanged,
)
from ..problem import durable
from ..problem.split import Split
from ..results.comment import Comment
from ..results.gate import GateVerdict, read_allowances
from ..search.own_attack import Consent
from . import consent
from .options import preparation
from .running import command_line, refuse_unwritable, run_shown
from .terminal import echo

CODES = {GateVerdict.NONE: 0, GateVerdict.REGRESSION: 1, GateVerdict.UNDECIDED: 3}
UNMEASURED = 2
STOPPED = 130


def run(
    checkpoint: str,
    baseline_path: Path,
    max_drops: tuple[str, ...],
    until_decided: bool,
    baseline_model: str | None,
    baseline_arch: str | None,
    attacks: tuple[str, ...],
    data: str | None,
    arch: str | None,
    weights: str | None,
    normalise: str | None,
    trust_pickle: bool,
    run_path: Path | None,
    json_path: Path | None,
    junit_path: Path | None,
    github: bool,
    minutes: float | None,
    precision: str | None,
    device: str,
    quiet: bool,
    **prepared: str | None,
) -> int:
    """Runs the command; commands/check.py documents its options."""
    if minutes is not None and not math.isfinite(minutes):
        raise UserError(f"--minutes {minutes} is not a time; write a number of minutes like 30 or 0.5")
    read = [checkpoint, data, arch, str(baseline_path), *attacks]
    for option, path in (("--json", json_path), ("--junit", junit_path)):
        if path is not None:
            refuse_unwritable(path, option, run_path, read)
    if json_path is not None and json_path == junit_path:
        raise UserError(f"--json and --junit both name {json_path}; give each a file of its own")
    if run_path is not None and run_path.resolve() == baseline_path.resolve():
        raise UserError(f"--run {run_path} is the baseline; give the new evidence a file of its own")
    baseline = read_baseline(baseline_path)
    allowances = read_allowances(max_drops, baseline.rows)
    compared = question(baseline, data, preparation(prepared), Consent.of(attacks))
    source = CheckpointSource(checkpoint, arch, normalise, trust_pickle, pick_device(device), weights)
    runner = _Runner(compared, precision, _remaining(minutes), quiet)
    # Before any attack: the content decides, so the same file under another name costs nothing.
    first = runner.prepare(source)
    if baseline.is_of(first.plan.model):
        comment, finished = unchanged(baseline, allowances), True
    else:
        further = runner.baseline(source, baseline_model, baseline_arch) if until_decided else None
        comment, finished = compare(compared, allowances, runner.model(source, first, run_path), further)
    _report(comment, json_path, junit_path, github)
    if not finished and comment.judgement.verdict is GateVerdict.UNDECIDED:
        return STOPPED
    return UNMEASURED if comment.unmeasured else CODES[comment.judgement.verdict]


def _report(comment: Comment, json_path: Path | None, junit_path: Path | None, github: bool) -> None:
    echo(comment.markdown(), nl=False)
    if json_path is not None:
        durable.replace(json_path, comment.now.to_json().encode())
    if junit_path is not None:
        durable.replace(junit_path, comment.junit().encode())
    if github:
        echo(comment.annotations(), nl=False)
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            try:
                with Path(summary).open("a", encoding="utf-8") as file:
                    file.write(comment.markdown())
            except OSError as error:  # the verdict is not affected
                echo(f"note: the step summary cannot be written: {error.strerror}", err=True)


def _remaining(minutes: float | None) -> Callable[[], float | None]:
    """The minutes that are left; None without a limit."""
    end = None if minutes is None else time.monotonic() + 60 * minutes
    return lambda: None if end is None else max(0.0, (end - time.monotonic()) / 60)


@dataclass(frozen=True)
class _Runner:
    """Evaluates models on the baseline's question, within the time limit of the command."""

    question: Question
    precision: str | None
    remaining: Callable[[], float | None]
    quiet: bool

    def prepare(self, source: CheckpointSource, split: Split | None = None) -> PreparedEvaluation:
        """The evaluation of a model on the baseline's examples, or on those of `split`."""
        return self.question.prepare(source, self.precision, split, command=command_line())

    def model(self, source: CheckpointSource, first: PreparedEvaluation, run: Path | None) -> Evaluate:
        """Evaluates the checked model; `first` is its evaluation on the baseline's examples."""

        def evaluate(split: Split, stop_when: StopCriterion | None) -> EvalResult:
            prepared = first if split is first.split else self.prepare(source, split)
            return run_shown(prepared, run, self.remaining(), self.quiet, stop_when=stop_when)

        return evaluate

    def baseline(self, like: CheckpointSource, checkpoint: str | None, arch: str | None) -> Evaluate:
        """Evaluates the baseline's model, once further examples are needed, into a run file of its own."""
        baseline = self.question.baseline

        def evaluate(split: Split, stop_when: StopCriterion | None) -> EvalResult:
            source = _baseline_source(baseline, checkpoint, arch, like)
            try:
                prepared = self.prepare(source, split)
            except UserError as error:
                raise UserError(
                    f"further examples need the baseline's model; name it with --baseline-model ({error})"
                ) from None
            refuse_another_model(baseline, prepared.plan.model, source.checkpoint)
            path = prepared.default_run.with_name(f"baseline-{prepared.default_run.name}")
            return run_shown(prepared, path, self.remaining(), self.quiet, stop_when=stop_when)

        return evaluate


def _baseline_source(
    baseline: Baseline, checkpoint: str | None, arch: str | None, like: CheckpointSource
) -> CheckpointSource:
    """The baseline's model, on the device of `like`, the model that is checked.

    Raises UserError where the baseline names code that the command line does not name.
    """
    environment, source = baseline.summary.environment, f"the baseline {baseline.path}"
    name = consent.checkpoint(
        *(checkpoint, environment, baseline.summary.model.name, source, "--baseline-model"),
        trust_pickle=like.trust_pickle,
    )
    if arch is None and (checkpoint is not None or like.metadata("").get("arch") == environment.get("arch")):
        arch = like.arch
    elif checkpoint is None:
        arch = consent.architecture(arch, environment, source, "--baseline-arch")
    weights = environment.get("weights") if checkpoint is None else like.weights
    return replace(
        like, checkpoint=name, arch=arch, normalise=environment.get("normalise"), weights=weights, infer=False
    )
