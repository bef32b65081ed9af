"""The model and the images of a run file, from where they were or where the user says they are now."""

from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from ..evaluation.environment import pick_device
from ..evaluation.model_source import CheckpointSource
from ..evaluation.planning import planned_examples, refuse_other_noise
from ..evaluation.recorded import identity_of
from ..evidence.records import Plan
from ..evidence.referee import Referee
from ..problem import datasets
from ..problem.datasets.preparation import Preparation
from ..problem.split import Split
from . import consent


class Reloaded(NamedTuple):
    """The model and the images of a run file."""

    split: Split  # the planned examples
    referee: Referee
    whole: Split  # all examples of the data
    source: CheckpointSource


def reloaded(
    run_path: Path,
    plan: Plan,
    environment: dict[str, str],
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
    """The planned examples, and a referee with the model of the plan; `environment` is that of the run.

    Raises UserError when model or data are missing, or others, or when the run names code.
    """
    source = CheckpointSource(
        consent.checkpoint(
            checkpoint, environment, plan.model.name, str(run_path), "--model", trust_pickle=trust_pickle
        ),
        consent.architecture(arch, environment, str(run_path)),
        normalise or environment.get("normalise"),
        trust_pickle,
        pick_device(device),
        weights or environment.get("weights"),
        infer=False,
    )
    text = consent.data(data, environment, plan.data, str(run_path))
    prepared = datasets.prepared(text, preparation, environment)
    whole = datasets.load(text, preparation=prepared, numbers=plan.examples)
    split = planned_examples(run_path, plan, whole)
    refuse_other_noise(plan, str(source.device), str(run_path))
    referee = Referee(source.load(split).classifier, plan.passes)
    if not identity_of(plan.model).same_as(referee.classifier.identity()):
        raise UserError(f"{source.checkpoint} is not the model of {run_path}; name that one with --model")
    return Reloaded(split, referee, whole, source)
