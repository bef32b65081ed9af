"""`robench plan`: the commands of a suite, in shards, with the hours that each takes at most."""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, counted, unknown
from ..evaluation import suite
from ..evaluation.environment import pick_device
from ..evaluation.prepared import prepare
from ..evaluation.shards import searched, sharded
from ..evaluation.suite import SuiteRun
from ..evidence.records import MAX_EXAMPLES, Shard
from ..protocols import cost
from .terminal import echo, one_line

FORMATS = ("commands", "slurm")
SPARE = 1.5  # times the longest estimate are requested of Slurm: the rate was measured on another machine
END = "end"  # the argument of a Slurm script that merges and reports

ABOUT_HOURS = (
    "Hours are upper bounds: as many as if every example stood, at the rate of forward and backward passes measured"
    " here on {device}, without the attacks' own arithmetic and a check for gradient masking. Broken examples cost"
    " less; another machine has another rate."
)


@dataclass(frozen=True)
class Task:
    """One command of a suite that may run beside all others."""

    words: Sequence[str]
    hours: float | None  # at most; None: not estimated

    @property
    def command(self) -> str:
        """It as a shell reads it."""
        return shlex.join(self.words)


@dataclass(frozen=True)
class SuitePlan:
    """The commands of a suite: those that may run side by side, and those that follow when all have ended."""

    tasks: Sequence[Task]
    after: Sequence[Sequence[str]]
    out: Path
    notes: Sequence[str]


def run(path: Path, shards: int, form: str, out: Path, estimate: bool, device: str) -> None:
    """Runs the command; commands/plan.py documents its options."""
    if form not in FORMATS:
        raise unknown("--format of a plan", form, FORMATS)
    if not str(out).isprintable() or str(out).startswith("-"):
        raise UserError(f"--out {str(out)!a} is no folder for run files; name another")
    planned = plan(suite.read(path), shards, out, device if estimate else None)
    lines = _commands(planned) if form == "commands" else _slurm(planned, path.stem)
    for line in lines:
        echo(line)


def plan(runs: Sequence[SuiteRun], shards: int, out: Path, device: str | None) -> SuitePlan:
    """The commands of these evaluations in so many shards; without a device no hours are estimated.

    Raises UserError for an evaluation that `robench evaluate` would refuse, where hours are estimated.
    """
    if not 1 <= shards <= MAX_EXAMPLES:
        raise UserError(f"--shards {shards} is out of range; it goes from 1 to {MAX_EXAMPLES:,}")
    parts = [Shard(index, shards) for index in range(1, shards + 1)] if shards > 1 else [None]
    tasks, notes, wholes = list[Task](), list[str](), list[str]()
    merges, checks = list[Sequence[str]](), list[Sequence[str]]()
    for evaluation in runs:
        whole = str(out / f"{evaluation.name}.robench")
        hours: Sequence[float | None] = [None] * len(parts)
        if device is not None and evaluation.runs_code:
            name = one_line(evaluation.model.checkpoint)
            notes.append(
                f"The hours of {name} are not estimated: its architecture is code, which only its command runs."
            )
        elif device is not None:
            hours = estimated(evaluation, parts, device)
        files = [str(out / f"{evaluation.name}-{p.index}-of-{p.count}.robench") if p else whole for p in parts]
        for part, file, longest in zip(parts, files, hours, strict=True):
            words = evaluation.words(part, masking=part is None)
            tasks.append(Task([*words, "--run", file, "--quiet"], longest))
        if shards > 1:
            merges.append(["robench", "merge", *files, "--out", whole])
        if shards > 1 and evaluation.options.masking != "off":
            checks.append([*evaluation.words(masking=True), "--run", whole, "--quiet"])
        wholes.append(whole)
    known = [task.hours for task in tasks if task.hours is not None]
    if known:
        about = ABOUT_HOURS.format(device=pick_device(device or "auto"))
        notes.insert(0, f"At most {shown(sum(known))} in all, {shown(max(known))} in the longest command. {about}")
    return SuitePlan(tasks, [*merges, *checks, ["robench", "report", *wholes]], out, notes)


def estimated(evaluation: SuiteRun, parts: Sequence[Shard | None], device: str) -> list[float | None]:
    """The hours of each shard if every example that it searches stands, at the rate of the model on this device."""
    prepared = prepare(evaluation.request(), evaluation.source(pick_device(device)))
    rate = cost.measured_rate(prepared.classifier)
    seconds = rate.seconds(cost.of_protocol(prepared.protocol, prepared.classifier.classes))
    hours = list[float | None]()
    for part in parts:
        numbers = searched(sharded(prepared.plan, part), "all")
        hours.append(seconds * len(prepared.plan.examples if numbers is None else numbers) / 3600)
    return hours


def _commands(planned: SuitePlan) -> Iterator[str]:
    """One command a line, for a shell or for a person."""
    yield f"# {counted(len(planned.tasks), 'command')} that may run side by side, on any machines."
    yield from (f"# {note}" for note in planned.notes)
    yield f"mkdir -p -- {shlex.quote(str(planned.out))}"
    for task in planned.tasks:
        yield task.command + ("" if task.hours is None else f"  # at most {shown(task.hours)}")
    yield "# When all have ended:"
    yield from map(shlex.join, planned.after)


def shown(hours: float) -> str:
    """Hours with two digits."""
    return f"{hours:.1f} hours" if hours >= 10 else f"{hours:.2g} hours" if hours >= 0.01 else "0.01 hours"


def _slurm(planned: SuitePlan, name: str) -> Iterator[str]:
    """An array script for `sbatch`, with one task for each command."""
    known = [task.hours for task in planned.tasks if task.hours is not None]
    job = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    yield "#!/bin/bash"
    yield f"#SBATCH --job-name=robench-{job}"
    yield f"#SBATCH --array=0-{len(planned.tasks) - 1}"
    yield "#SBATCH --requeue"
    yield "#SBATCH --signal=B:USR1@60"
    if len(known) == len(planned.tasks):
        minutes = max(10, math.ceil(60 * SPARE * max(known)))
        yield f"#SBATCH --time={minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:00"
    yield "# Add what your cluster needs, such as a partition, or a GPU: #SBATCH --gpus=1"
    yield "#"
    yield "# Each task writes a run file of its own. What was found is committed as it is found, so a task that is"
    yield "# killed, or requeued before its time ends, goes on from there."
    yield "#"
    yield "#     sbatch THIS_FILE"
    yield f"#     sbatch --array=0 --dependency=afterok:JOB THIS_FILE {END}     merges the shards, and prints the table"
    yield "#"
    yield from (f"# {note}" for note in planned.notes)
    yield _SHELL.format(out=shlex.quote(str(planned.out)))
    yield f'if [ "${{1-}}" = {END} ]; then'
    yield "    set -e"
    for words in planned.after:
        guard = f"[ -e {shlex.quote(words[-1])} ] || " if words[1] == "merge" else ""
        rest = " || code=$?" if words[1] == "evaluate" else ""  # the report comes in any case
        yield f"    {guard}{shlex.join(words)}{rest}"
    yield '    exit "${code-0}"'
    yield "fi"
    yield 'case "$SLURM_ARRAY_TASK_ID" in'
    for number, task in enumerate(planned.tasks):
        about = "" if task.hours is None else f"  # at most {shown(task.hours)}"
        yield f"{number}) continued {task.command} ;;{about}"
    yield '*) echo "there is no task $SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;'
    yield "esac"


_SHELL = """set -u
continued() {{  # runs a command, and puts the task back into the queue before Slurm ends it
    "$@" &
    child=$!
    trap 'kill -TERM "$child"; wait "$child"
          scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"; exit' USR1
    wait "$child"
}}
mkdir -p -- {out}"""
