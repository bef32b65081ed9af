"""`robench evaluate`: attack, judge, record, print the table."""

import math
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from .. import api
from ..api import Ask, Subject
from ..errors import UserError
from ..evidence.referee import Referee
from ..evidence.store import RunFile
from ..problem import datasets, durable
from ..problem.checkpoints import load, locate
from ..problem.classifier import Classifier
from ..problem.diagnosis import likely_cause, near_chance
from ..problem.split import Split
from ..results.summary import Summary
from ..results.tables import render
from .display import Display
from .options import machine_options, model_options, precision_option, question_options


@click.command("evaluate")
@click.argument("checkpoint")
@click.option("--data", metavar="NAME|FILE.npz", help="The images.  [default: those of the model's card]")
@question_options
@model_options
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="Keep the evidence here.  [default: in runs/]")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the summary here too; - is stdout.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop in time; the same command goes on.")
@click.option("--breakdown", is_flag=True, help="Add the table of attacks.")
@precision_option
@machine_options
def command(
    checkpoint: str,
    data: str | None,
    protocol: str | None,
    threats: tuple[str, ...],
    attacks: tuple[str, ...],
    examples: str | None,
    every_attack: bool,
    curve: bool,
    seed: int | None,
    arch: str | None,
    normalise: str | None,
    trust_pickle: bool,
    run_path: Path | None,
    json_path: Path | None,
    minutes: float | None,
    breakdown: bool,
    precision: str,
    device: str,
    quiet: bool,
) -> int:
    """Measure how much accuracy a model keeps under attack.

    CHECKPOINT is a file (.safetensors, .pt, .pth, TorchScript) or the name of a bundled model. What is
    found is kept in a run file: stopped anywhere, the same command finishes the rest.

    \b
    robench evaluate digits-adv-linf
    robench evaluate model.pt --data mnist --threat linf:0.3 --threat l2:2 --examples 1000
    robench evaluate model.pt --data my.npz --arch my_model.py:build --normalise 0.5/0.5
    robench evaluate digits-nat --attack 'pgd(steps=200, restarts=10)'
    """
    if minutes is not None and not math.isfinite(minutes):
        raise UserError(f"--minutes {minutes} is no time; write a number of minutes like 30 or 0.5")
    ask = Ask(data, protocol, threats, attacks, examples, seed, every_attack, curve, precision)
    subject = Subject(checkpoint, arch, normalise, trust_pickle, api.pick_device(device))
    if json_path is not None and str(json_path) != "-":
        _refuse_unwritable(json_path, run_path, [checkpoint, data, arch, protocol])
    summary, finished = ask_about(subject, ask, run_path, minutes, quiet)
    table = render([summary], intervals=True, attacks=breakdown)
    if json_path is None or str(json_path) != "-":
        click.echo(table, nl=False)
    if json_path is not None:
        if str(json_path) == "-":
            click.echo(summary.to_json(), nl=False)
        else:
            durable.replace(json_path, summary.to_json().encode())
    return 0 if finished else 130


def ask_about(
    subject: Subject, ask: Ask, run_path: Path | None, minutes: float | None, quiet: bool
) -> tuple[Summary, bool]:
    """The answer, and whether it was let finish. Ctrl-C and a polite kill end it early, with what is known by then."""
    found = locate(subject.checkpoint)[1]
    if ask.data is None and (found is None or not found.data):
        raise _data_missing(subject)
    split, protocol = api.choose(ask, None, found)
    loaded = subject.load(split)
    referee = Referee(subject.load(split).classifier)
    plan = api.plan(ask, protocol, split, loaded.classifier)
    path = run_path or api.default_run(plan)
    display = Display(quiet, doubt=lambda summary: _doubt(loaded.classifier, split, summary))
    told = subject.told(ask.data or (found.data if found else "")) | {"command": shlex.join(_command_line())}
    signal.signal(signal.SIGTERM, interrupt)
    with RunFile.open(path) as run, display.shown():
        for note in loaded.notes:
            display.say(f"note: {note}")
        evaluation = api.evaluation(
            ask, protocol, split, loaded.classifier, referee, run, told, progress=display, minutes=minutes
        )
        finished = True
        try:
            summary = evaluation.answer()
        except KeyboardInterrupt:
            finished = False
            summary = evaluation.summary()
        _say_where(summary, path, finished, display)
    return summary, finished


def _doubt(classifier: Classifier, split: Split, summary: Summary) -> str | None:
    """A model that is no better than guessing was most likely not read as it was trained: what to say of that."""
    clean = summary.clean
    if clean.accuracy > 0.5:
        return None
    cause = likely_cause(classifier, split)
    if near_chance(clean.correct, len(split), classifier.classes):
        why = cause or "none of the usual causes (normalisation, channel order, label order) explains it"
        return f"clean accuracy {clean.accuracy:.1%} is no better than chance: {why}"
    return f"clean accuracy {clean.accuracy:.1%} is low: {cause}" if cause else None


def _say_where(summary: Summary, path: Path, finished: bool, display: Display) -> None:
    if summary.clean.open:
        display.say("stopped before anything was measured")
        return
    if any(threat.failures for threat in summary.threats):
        display.say("an attack failed, and its examples stay open: the notes under the table say why")
    elif summary.union.open:
        display.say(f"{summary.union.open} examples are still open: type the same command again to finish them")
    display.say(f"{'evidence' if finished else 'stopped; the evidence so far is'} in {path}")


def _refuse_unwritable(path: Path, run_path: Path | None, read: list[str | None]) -> None:
    """Before hours of work, not after; and never over what is read."""
    sources = {Path((text or "").rpartition(":")[0] or text or "").resolve() for text in read if text}
    sources |= {Path(text).resolve() for text in read if text}
    if path.exists() and path.resolve() in sources:
        raise UserError(f"--json {path} would overwrite what the evaluation reads; name another file")
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise UserError(f"{path} cannot be written; name a file in a folder that exists with --json")
    if run_path is not None and path.resolve() == run_path.resolve():
        raise UserError(f"--json and --run both name {path}; give each a file of its own")


def _data_missing(subject: Subject) -> UserError:
    """Names the data sets whose images the model can read, as far as its weights tell."""
    loaded = load(subject.checkpoint, arch=subject.arch, normalise=subject.normalise, trust_pickle=subject.trust_pickle)
    shape = loaded.classifier.shape
    fitting = datasets.fitting(shape)
    images = "x".join(map(str, shape))
    listed = f"{', '.join(fitting)} have images of {images}" if fitting else f"a FILE.npz with images of {images}"
    return UserError(f"name the data with --data: {listed}")


def _command_line() -> list[str]:
    return ["robench", *(a for a in sys.argv[1:])]


def interrupt(number: int, frame: FrameType | None) -> None:
    """A polite kill is a Ctrl-C."""
    raise KeyboardInterrupt
