"""`robench check`: the gate for CI."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from .. import api
from ..api import EvalRequest, EvalResult, ModelSource
from ..errors import UserError
from ..evaluation.regression import (
    Baseline,
    Evaluate,
    Question,
    compare,
    precision_for,
    question,
    read_baseline,
    refuse_another_model,
    unchanged,
)
from ..problem import durable
from ..problem.split import Split
from ..results.comment import Comment
from ..results.gate import GateVerdict, read_allowances
from ..results.summary import Summary
from ..search.own_attack import Consent
from . import consent
from .options import data_options, machine_options, model_options, precision_option, preparation
from .running import ask_about, refuse_unwritable
from .terminal import echo

CODES = {GateVerdict.NONE: 0, GateVerdict.REGRESSION: 1, GateVerdict.UNDECIDED: 3}
UNMEASURED = 2
STOPPED = 130


@click.command("check")
@click.argument("checkpoint")
@click.option(
    "--baseline",
    "baseline_path",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What robench evaluate --json wrote, or a run file.",
)
@click.option(
    "--max-drop",
    "max_drops",
    multiple=True,
    metavar="[ROW=]POINTS",
    help="Allowed, as union=1pp, linf:0.3=2pp, clean=0.5pp, or 1pp in every row; repeatable.  [default: 1pp]",
)
@click.option("--until-decided", is_flag=True, help="Go on with further examples while the verdict is open.")
@click.option("--baseline-model", metavar="CHECKPOINT", help="For further examples.  [default: as the baseline says]")
@click.option("--baseline-arch", metavar="NAME|FACTORY", help="Its architecture.  [default: as the baseline says]")
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="FILE.py:CLASS",
    help="Run this attack of your own, which the baseline used; repeatable.",
)
@data_options("those of the baseline, prepared as they were")
@model_options
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="Keep the evidence here.  [default: in runs/]")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the model's summary here.")
@click.option("--junit", "junit_path", type=click.Path(path_type=Path), help="Write the verdicts here as JUnit XML.")
@click.option("--github", is_flag=True, help="Annotate, and add the comment to the summary of the step, on GitHub.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop in time; the same command goes on.")
@precision_option
@machine_options
def command(
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
    """Fail when a model is less robust than a baseline.

    Asks about CHECKPOINT what was asked about the baseline, on the same examples, and prints a comment for a
    pull request. Exit 0: no regression; 1: regression; 2: could not be measured; 3: undecided.

    \b
    robench evaluate digits-adv-linf --json baseline.json
    robench check model.safetensors --baseline baseline.json
    robench check model.pt --baseline baseline.json --max-drop union=1pp --max-drop clean=0.5pp
    """
    if minutes is not None and not math.isfinite(minutes):
        raise UserError(f"--minutes {minutes} is no time; write a number of minutes like 30 or 0.5")
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
    asked = question(baseline, data, preparation(prepared), Consent.of(attacks))
    subject = ModelSource(checkpoint, arch, normalise, trust_pickle, api.pick_device(device), weights)
    # Before anything is attacked: content decides, so the same file under another name costs nothing.
    if baseline.is_of(subject.load(asked.split).classifier):
        comment, finished = unchanged(baseline, allowances), True
    else:
        searching = precision_for(baseline, precision, subject.device)
        ask = EvalRequest(
            data=asked.data, seed=baseline.summary.seed, precision=searching, preparation=asked.preparation
        )
        clock = _clock(minutes)
        further = _asking_the_baseline(baseline, baseline_model, baseline_arch, subject, asked, ask, clock, quiet)
        comment, finished = compare(
            *(baseline, asked, allowances, _asking(subject, ask, asked, run_path, clock, quiet)),
            ask_baseline=further if until_decided else None,
        )
    _tell(comment, json_path, junit_path, github)
    if not finished and comment.judgement.verdict is GateVerdict.UNDECIDED:
        return STOPPED
    return UNMEASURED if comment.unmeasured else CODES[comment.judgement.verdict]


def _tell(comment: Comment, json_path: Path | None, junit_path: Path | None, github: bool) -> None:
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
            except OSError as error:  # the verdict stands
                echo(f"note: the summary of the step cannot be written: {error.strerror}", err=True)


def _clock(minutes: float | None) -> Callable[[], float | None]:
    """The minutes that are left; None for as many as it takes."""
    end = None if minutes is None else time.monotonic() + 60 * minutes
    return lambda: None if end is None else max(0.0, (end - time.monotonic()) / 60)


def _asking(
    subject: ModelSource,
    ask: EvalRequest,
    asked: Question,
    run: Path | None,
    clock: Callable[[], float | None],
    quiet: bool,
) -> Evaluate:
    def answer(split: Split, enough: Callable[[Summary], bool] | None) -> EvalResult:
        return ask_about(subject, ask, run, clock(), quiet, chosen=(split, asked.protocol), enough=enough)

    return answer


def _baseline_subject(baseline: Baseline, checkpoint: str | None, arch: str | None, like: ModelSource) -> ModelSource:
    """The baseline's model, on the device of `like`, the model that is checked.

    Raises UserError where the baseline names code that the command line does not.
    """
    told, source = baseline.summary.environment, f"the baseline {baseline.path}"
    name = consent.checkpoint(
        *(checkpoint, told, baseline.summary.model.name, source, "--baseline-model"), trust_pickle=like.trust_pickle
    )
    if arch is None and (checkpoint is not None or like.told("").get("arch") == told.get("arch")):
        arch = like.arch
    elif checkpoint is None:
        arch = consent.architecture(arch, told, source, "--baseline-arch")
    weights = told.get("weights") if checkpoint is None else like.weights
    return replace(like, checkpoint=name, arch=arch, normalise=told.get("normalise"), weights=weights)


def _asking_the_baseline(
    baseline: Baseline,
    checkpoint: str | None,
    arch: str | None,
    like: ModelSource,
    asked: Question,
    ask: EvalRequest,
    clock: Callable[[], float | None],
    quiet: bool,
) -> Evaluate:
    """Asks the baseline's model, once further examples are needed, into a run file that is nobody else's."""

    def answer(split: Split, enough: Callable[[Summary], bool] | None) -> EvalResult:
        subject = _baseline_subject(baseline, checkpoint, arch, like)
        try:
            classifier = subject.load(split).classifier
        except UserError as error:
            raise UserError(
                f"further examples need the baseline's model; name it with --baseline-model ({error})"
            ) from None
        refuse_another_model(baseline, classifier, subject.checkpoint)
        usual = api.default_run(api.plan(ask, asked.protocol, split, classifier))
        path = usual.with_name(f"baseline-{usual.name}")
        return _asking(subject, ask, asked, path, clock, quiet)(split, enough)

    return answer
