"""An evaluation as the commands hold it: shown while it runs, stopped in time, its evidence in a run file."""

import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from .. import api
from ..api import Answer, Ask, Subject
from ..errors import UserError, are, counted
from ..evidence.referee import Referee
from ..evidence.store import RunFile
from ..problem import datasets
from ..problem.architectures import factories
from ..problem.checkpoints import load, locate
from ..problem.classifier import Classifier
from ..problem.diagnosis import likely_cause, near_chance
from ..problem.split import Split
from ..protocols import Protocol
from ..results.summary import Summary
from .display import Display


def ask_about(
    subject: Subject,
    ask: Ask,
    run_path: Path | None,
    minutes: float | None,
    quiet: bool,
    *,
    chosen: tuple[Split, Protocol] | None = None,
    enough: Callable[[Summary], bool] | None = None,
) -> Answer:
    """The answer. Ctrl-C and a polite kill end it early, with what is known by then.

    `chosen` examples and protocol go before those that the question names; with `enough`, it ends when that says so.
    """
    found = locate(subject.checkpoint)[1]
    if chosen is None and ask.data is None and (found is None or not found.data):
        raise _data_missing(subject)
    split, protocol = chosen or api.choose(ask, None, found)
    loaded = subject.load(split)
    referee = Referee(subject.load(split).classifier)
    plan = api.plan(ask, protocol, split, loaded.classifier)
    path = run_path or api.default_run(plan)
    display = Display(quiet, doubt=lambda summary: _doubt(loaded.classifier, split, summary))
    told = subject.told(ask.data or (found.data if found else ""), ask.preparation) | {
        "command": shlex.join(_command_line())
    }
    signal.signal(signal.SIGTERM, interrupt)
    with RunFile.open(path) as run, display.shown():
        for note in loaded.notes:
            display.say(f"note: {note}")
        if protocol.data not in ("", split.name.partition(":")[0]):
            display.say(f"note: the protocol {protocol.name} was made for {protocol.data}; these are {split.name}")
        evaluation = api.evaluation(
            *(ask, protocol, split, loaded.classifier, referee, run, told),
            progress=display,
            minutes=minutes,
            enough=enough,
            card=found,
        )
        finished = True
        try:
            evaluation.answer()
        except KeyboardInterrupt:
            finished = False
        answer = Answer.of(evaluation, finished=finished)
        if enough is not None and not answer.summary.unanswered and enough(answer.summary):
            display.say(f"enough is known; the evidence is in {path}")
        else:
            _say_where(answer.summary, path, finished, display)
    return answer


def refuse_unwritable(path: Path, option: str, run_path: Path | None, read: list[str | None]) -> None:
    """Before hours of work, not after; and never over what is read."""
    sources = {Path((text or "").rpartition(":")[0] or text or "").resolve() for text in read if text}
    sources |= {Path(factories.file_of(text) or text).resolve() for text in read if text}
    if path.exists() and path.resolve() in sources:
        raise UserError(f"{option} {path} would overwrite what the evaluation reads; name another file")
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise UserError(f"{path} cannot be written; name a file in a folder that exists with {option}")
    if run_path is not None and path.resolve() == run_path.resolve():
        raise UserError(f"{option} and --run both name {path}; give each a file of its own")


def _doubt(classifier: Classifier, split: Split, summary: Summary) -> str | None:
    """A model that is no better than guessing was most likely not read as it was trained: what to say of that."""
    clean = summary.clean
    if clean.open or clean.accuracy > 0.5:  # where the model raises on images, the explanations cannot be tried
        return None
    cause = likely_cause(classifier, split)
    if near_chance(clean.correct, len(split), classifier.classes):
        why = cause or "none of the usual causes (normalisation, channel order, label order) explains it"
        return f"clean accuracy {clean.accuracy:.1%} is no better than chance: {why}"
    return f"clean accuracy {clean.accuracy:.1%} is low: {cause}" if cause else None


def _say_where(summary: Summary, path: Path, finished: bool, display: Display) -> None:
    if summary.unanswered:
        display.say("stopped before anything was measured")
        return
    failed, still_open = summary.union.failed, summary.union.open - summary.union.failed
    if failed:
        display.say(f"an error ended the search on {counted(failed, 'example')}: the notes under the table say why")
    if still_open:
        command = "type the same command again to finish"
        display.say(f"{are(still_open, 'example')} still open: {command} {'it' if still_open == 1 else 'them'}")
    display.say(f"{'evidence' if finished else 'stopped; the evidence so far is'} in {path}")


def _data_missing(subject: Subject) -> UserError:
    """Names the data sets whose images the model can read, as far as its weights tell."""
    loaded = load(
        subject.checkpoint,
        arch=subject.arch,
        normalise=subject.normalise,
        trust_pickle=subject.trust_pickle,
        weights=subject.weights,
    )
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
