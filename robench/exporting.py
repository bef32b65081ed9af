"""The adversarial images of a run file, as arrays for other programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import api
from .api import Data
from .errors import UserError
from .evidence.records import Evidence, Plan
from .evidence.store import RunFile
from .problem import datasets
from .problem import threats as threat_models
from .problem.datasets import python_data
from .problem.datasets.preparation import Preparation
from .problem.split import Split
from .results.exported import Selection, finds

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


@dataclass(frozen=True)
class Images:
    """Arrays of one length, and how many finds are not among them because a run keeps one image of several."""

    arrays: Arrays
    without: int = 0


def load_images(
    run: str | Path,
    *,
    data: Data = None,
    threats: str | Sequence[str] = (),
    attacks: str | Sequence[str] = (),
    examples: int | str | None = None,
) -> Arrays:
    """The adversarial images that count in a run file, with the clean ones they were made from, as numpy arrays.

    One entry per broken example and threat, in the order of the run's plan: `x` and `x_adv` (N,C,H,W), float32 in
    [0, 1]; `y`; `example`, its number; `threat`; `attack`, with every number; `size`, in the unit of the threat;
    `margin`, the best wrong logit minus the right one. Clean images come from where the run found them, or from `data`,
    anything that `robench.evaluate` takes. Raises UserError when there are none, or when the data are not the run's.

        robench.load_images("net.robench", threats=["linf:0.1"])["x_adv"]
    """
    under, by = ([text] if isinstance(text, str) else text for text in (threats, attacks))
    selection = selected(under, by, None if examples is None else str(examples))
    with RunFile.read(Path(run)) as file:
        plan, evidence = planned(file)
        if data is None or isinstance(data, str | Path):
            split = examples_of(run, plan, evidence.environment, data=None if data is None else str(data))
        else:
            split = api.planned_examples(run, plan, python_data.source_of(data))
        return images_of(file, plan, evidence, split, selection).arrays


def selected(named: Sequence[str], attacks: Sequence[str], examples: str | None) -> Selection:
    """A selection of threats in any spelling: 8./255 is 8/255."""
    return Selection(tuple(str(threat_models.parse(text)) for text in named), attacks, examples)


def planned(file: RunFile) -> tuple[Plan, Evidence]:
    """The question of a run file and what is known. Raises UserError when it holds none yet."""
    plan = file.plan()
    if plan is None:
        raise UserError(f"{file.path} holds no plan yet: the run was stopped before it began; start it again")
    return plan, file.evidence()


def examples_of(
    run: str | Path, plan: Plan, known: dict[str, str], *, data: str | None, preparation: Preparation | None = None
) -> Split:
    """The planned examples, from where they were or where the user says they are now; no model is loaded.

    `known` is the environment of the run. Raises UserError when they are not there, or are other images.
    """
    text = data or known.get("data") or plan.data
    if not data and "data" not in known and plan.data.partition(":")[0] not in datasets.DATASETS:
        raise UserError(
            f"{run} is about images that were given in Python ({plan.data}); give the same to robench.load_images with"
            " data=..., or as a file with --data"
        )
    prepared = datasets.prepared(text, preparation, known)
    return api.planned_examples(run, plan, datasets.load(text, preparation=prepared, numbers=plan.examples))


def images_of(file: RunFile, plan: Plan, evidence: Evidence, split: Split, selection: Selection) -> Images:
    """The selected images. Raises UserError when there are none."""
    kept = dict(file.images(split.shape))
    found, without = finds(plan, evidence, selection, kept)
    if not found:
        if without:
            raise UserError(
                f"{file.path} holds no images of these finds, as runs merged with --slim do; make it again with robench"
                " evaluate"
            )
        raise UserError(f"{file.path} holds no find to export: no example is broken there; search harder, or wider")
    rows = {number: row for row, number in enumerate(split.numbers)}
    places = [rows[find.claim.example] for find in found]
    arrays: Arrays = {
        "x": split.x[places].numpy(),
        "x_adv": np.stack([kept[find.claim.id] for find in found]),
        "y": split.y[places].numpy(),
        "example": np.array([find.claim.example for find in found], dtype=np.int64),
        "threat": np.array([find.threat for find in found]),
        "attack": np.array([find.claim.attack for find in found]),
        "size": np.array([find.verdict.size for find in found], dtype=np.float64),
        "margin": np.array([find.verdict.margin for find in found], dtype=np.float64),
    }
    return Images(arrays, without)
