"""An evaluation as the commands run it: shown on the terminal, stopped in time, its evidence in a run file."""

import os
import shlex
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType

from ..errors import UserError, are, counted
from ..evaluation.prepared import EvalResult, PreparedEvaluation, StopCriterion
from ..evaluation.workers.driver import Driver, Pool
from ..evidence.store import RunFile
from ..problem.architectures import factories
from ..problem.diagnosis import likely_cause, near_guessing
from ..results.merging import searched_places
from ..results.outcomes import Outcome
from ..results.summary import Summary
from .display import Display


def run_shown(
    prepared: PreparedEvaluation,
    run_path: Path | None,
    minutes: float | None,
    quiet: bool,
    *,
    stop_when: StopCriterion | None = None,
    pool: Pool | None = None,
) -> EvalResult:
    """The result. Ctrl-C and SIGTERM end the evaluation early, with what is known by then.

    With a pool, its workers search.
    """
    path = run_path or prepared.default_run
    driver = Driver(pool, prepared.source) if pool is not None else None
    display = display_of(prepared, quiet)
    signal.signal(signal.SIGTERM, interrupt)
    with RunFile.open(path) as run, display.shown():
        for note in _notes(prepared):
            display.noted(note)
        # Notes on loading are shown once, and not kept with the run.
        evaluation = replace(prepared, loading_notes=()).evaluation(
            run,
            progress=display,
            minutes=minutes,
            stop_when=stop_when,
            elsewhere=driver.search_round if driver is not None else None,
        )
        finished = True
        try:
            with driver or nullcontext():
                evaluation.answer()
        except KeyboardInterrupt:
            finished = False
        result = EvalResult.in_file(evaluation, finished=finished)
        if stop_when is not None and not result.summary.unanswered and stop_when(result.summary):
            display.show(f"enough is known; the evidence is in {path}")
        else:
            _show_state(result, path, display)
    return result


def display_of(prepared: PreparedEvaluation, quiet: bool) -> Display:
    """The display of an evaluation, which doubts a low clean accuracy."""
    return Display(quiet, doubt=lambda summary: _doubt(prepared, summary))


def refuse_unwritable(path: Path, option: str, run_path: Path | None, read: list[str | None]) -> None:
    """Raises UserError before hours of work, not after them, where a result cannot be written to this file.

    `read` are the files that the evaluation reads, which must not be overwritten.
    """
    sources = {Path((text or "").rpartition(":")[0] or text or "").resolve() for text in read if text}
    sources |= {Path(factories.file_of(text) or text).resolve() for text in read if text}
    if path.exists() and path.resolve() in sources:
        raise UserError(f"{option} {path} would overwrite what the evaluation reads; name another file")
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise UserError(f"{path} cannot be written; name a file in a folder that exists with {option}")
    if run_path is not None and path.resolve() == run_path.resolve():
        raise UserError(f"{option} and --run both name {path}; give each a file of its own")


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["robench", *sys.argv[1:]])


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handles SIGTERM as Ctrl-C."""
    raise KeyboardInterrupt


def _notes(prepared: PreparedEvaluation) -> list[str]:
    """How the model was read, and whether the protocol was made for other data."""
    notes, protocol, data = list(prepared.loading_notes), prepared.protocol, prepared.split.name
    if protocol.data not in ("", data.partition(":")[0]):
        name = protocol.name.partition(",")[0]  # without what says that its threats were replaced
        notes.append(f"the protocol {name} was made for {protocol.data}; these are {data}")
    return notes


def _doubt(prepared: PreparedEvaluation, summary: Summary) -> str | None:
    """A warning where the clean accuracy is low: most likely the model is not read as it was trained."""
    clean, split = summary.clean, prepared.split
    if clean.open or clean.accuracy > 0.5:  # where the model raises on images, the explanations cannot be tried
        return None
    cause = likely_cause(prepared.classifier, split)
    if near_guessing(clean.correct, len(split), prepared.classifier.classes):
        why = cause or "none of the usual causes (normalisation, channel order, label order) explains it"
        return f"clean accuracy {clean.accuracy:.1%} is no better than chance: {why}"
    return f"clean accuracy {clean.accuracy:.1%} is low: {cause}" if cause else None


def _show_state(result: EvalResult, path: Path, display: Display) -> None:
    summary, finished = result.summary, result.finished
    if summary.unanswered:
        display.show("stopped before anything was measured")
        return
    failed = summary.union.failed
    own = [summary.union.outcomes[place] for place in searched_places(result.plan)]
    still_open = own.count(Outcome.OPEN) - failed if summary.threats else summary.clean.open
    if failed:
        display.show(f"an error ended the search on {counted(failed, 'example')}: the notes under the table say why")
    if still_open:
        command = "type the same command again to finish"
        display.show(f"{are(still_open, 'example')} still open: {command} {'it' if still_open == 1 else 'them'}")
    elif result.plan.shards:
        shards = ", ".join(map(str, result.plan.shards))
        rest = counted(len(summary.union.outcomes) - len(own), "example")
        display.show(f"shard {shards} is done; {rest} are left to others, and robench merge joins them")
    display.show(f"{'evidence' if finished else 'stopped; the evidence so far is'} in {path}")
