"""What a run file holds. Does not import torch."""

from pathlib import Path

from .. import __version__
from ..errors import UserError
from ..evidence.records import ModelRecord, Plan
from ..evidence.store import RunFile
from ..problem.identity import Identity
from ..results.summarising import summarise
from ..results.summary import Summary


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
        return summary_of(run, what)


def summary_of(run: RunFile, what: str = "") -> Summary:
    """The summary of the last question of an open run file. Raises UserError when it holds no question yet."""
    return summarise(recorded_plan(run, what), run, __version__)


def identity_of(model: ModelRecord) -> Identity:
    """The identity that a run file keeps."""
    return Identity(model.weights_sha256, model.architecture, model.normalisation, model.fingerprint)
