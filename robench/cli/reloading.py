"""The model and the images a run file is about, from where they were or where the user says they are now."""

from pathlib import Path

from .. import api
from ..api import Subject
from ..errors import UserError
from ..evaluation import identity_of, refuse_other_noise
from ..evidence.records import Plan
from ..evidence.referee import Referee
from ..exporting import examples_of
from ..problem.datasets.preparation import Preparation
from ..problem.split import Split


def reloaded(
    run_path: Path,
    plan: Plan,
    told: dict[str, str],
    *,
    checkpoint: str | None,
    data: str | None,
    preparation: Preparation,
    arch: str | None,
    normalise: str | None,
    trust_pickle: bool,
    device: str,
) -> tuple[Split, Referee]:
    """The planned examples, and a referee with the model of the plan; `told` is the environment of the run.

    Raises UserError when either is not there, or is another.
    """
    subject = Subject(
        checkpoint or told.get("checkpoint") or plan.model.name,
        arch or told.get("arch"),
        normalise or told.get("normalise"),
        trust_pickle,
        api.pick_device(device),
    )
    split = examples_of(run_path, plan, told, data=data, preparation=preparation)
    refuse_other_noise(plan, str(subject.device), str(run_path))
    referee = Referee(subject.load(split).classifier, plan.passes)
    if not identity_of(plan.model).same_as(referee.classifier.identity()):
        raise UserError(f"{subject.checkpoint} is not the model of {run_path}; name that one with --model")
    return split, referee
