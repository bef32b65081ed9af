"""What a run file holds, and the images that it is about."""

from pathlib import Path

from .. import __version__
from ..errors import UserError
from ..evidence.records import Plan
from ..evidence.store import RunFile
from ..problem.split import Source, Split
from ..results.summary import Summary, summarise


def recorded_plan(run: RunFile, what: str = "", hint: str = "start it again") -> Plan:
    """The plan of a run file. Raises UserError when it holds none yet.

    `what` introduces the file in that error, and `hint` ends it.
    """
    plan = run.plan()
    if plan is None:
        raise UserError(f"{what}{run.path} holds no plan yet: the run was stopped before it started; {hint}")
    return plan


def recorded_summary(path: str | Path, what: str = "") -> Summary:
    """The summary of the last question that was evaluated into a run file.

    Raises UserError when the file is no run file, is damaged, or holds no question yet.
    """
    with RunFile.read(Path(path)) as run:
        return summarise(recorded_plan(run, what), run.evidence(), __version__)


def planned_examples(run: str | Path, plan: Plan, whole: Source) -> Split:
    """The examples that a run is about. Raises UserError when they are missing, or are other images."""
    rows = {number: row for row, number in enumerate(whole.numbers)}
    missing = [number for number in plan.examples if number not in rows]
    if missing:
        raise UserError(f"{whole.name} has no example {missing[0]}, which {run} is about; name its data with --data")
    split = whole.take([rows[number] for number in plan.examples])
    if split.sha256 != plan.data_sha256:
        raise UserError(f"{whole.name} holds other images than {run} is about; name its data with --data")
    return split
