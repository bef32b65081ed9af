"""The model and the images a run file is about, from where they were or where the user says they are now."""

from pathlib import Path
from typing import NamedTuple

from .. import api
from ..api import ModelSource
from ..errors import UserError
from ..evaluation.runner import identity_of, refuse_other_noise
from ..evidence.records import Plan
from ..evidence.referee import Referee
from ..problem import datasets
from ..problem.datasets.preparation import Preparation
from ..problem.split import Split
from . import consent


class Reloaded(NamedTuple):
    """What a run file is about, loaded."""

    split: Split  # the planned examples
    referee: Referee
    whole: Split  # all examples of the data
    subject: ModelSource


def reloaded(
    run_path: Path,
    plan: Plan,
    told: dict[str, str],
    *,
    checkpoint: str | None,
    data: str | None,
    preparation: Preparation,
    arch: str | None,
    weights: str | None,
    normalise: str | None,
    trust_pickle: bool,
    device: str,
) -> Reloaded:
    """The planned examples, and a referee with the model of the plan; `told` is the environment of the run.

    Raises UserError when either is not there, or is another, or when the run names code.
    """
    subject = ModelSource(
        consent.checkpoint(checkpoint, told, plan.model.name, str(run_path), "--model", trust_pickle=trust_pickle),
        consent.architecture(arch, told, str(run_path)),
        normalise or told.get("normalise"),
        trust_pickle,
        api.pick_device(device),
        weights or told.get("weights"),
    )
    text = consent.data(data, told, plan.data, str(run_path))
    prepared = datasets.prepared(text, preparation, told)
    whole = datasets.load(text, preparation=prepared, numbers=plan.examples)
    split = api.planned_examples(run_path, plan, whole)
    refuse_other_noise(plan, str(subject.device), str(run_path))
    referee = Referee(subject.load(split).classifier, plan.passes)
    if not identity_of(plan.model).same_as(referee.classifier.identity()):
        raise UserError(f"{subject.checkpoint} is not the model of {run_path}; name that one with --model")
    return Reloaded(split, referee, whole, subject)
