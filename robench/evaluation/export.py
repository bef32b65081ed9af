"""The adversarial images of a run file, as arrays for other programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..evidence.records import Evidence, Plan
from ..evidence.store import RunFile
from ..problem import datasets
from ..problem import threats as threat_models
from ..problem.datasets import python_data
from ..problem.datasets.preparation import Preparation
from ..problem.split import Split
from ..problem.threats.base import stacked
from ..results.exported import Selection, finds
from .planning import planned_examples
from .recorded import recorded_plan

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


@dataclass(frozen=True)
class Images:
    """Arrays of equal length, and how many finds are missing because a run keeps one image of several."""

    arrays: Arrays
    without: int = 0


def load_images(
    run: str | Path,
    *,
    data: Any = None,
    threats: str | Sequence[str] = (),
    attacks: str | Sequence[str] = (),
    examples: int | str | None = None,
) -> Arrays:
    """The adversarial images that count in a run file, with their clean images, as numpy arrays.

    One entry per broken example and threat, in the order of the run's plan: `x` and `x_adv` (N,C,H,W), float32 in
    [0, 1]; `y`; `example`, its number; `threat`; `attack`, with every number; `size`, in the unit of the threat;
    `margin`, the best wrong logit minus the correct one; `params` (N,P), the parameters of threats that need them, such
    as tx, ty and angle, else 0. Clean images come from where the run found them, or from
    `data`, anything that `robench.evaluate` takes. Raises UserError when no image is selected, or when the data are
    not the run's.

        robench.load_images("net.robench", threats=["linf:0.1"])["x_adv"]
    """
    under, by = ([text] if isinstance(text, str) else text for text in (threats, attacks))
    selection = selected(under, by, None if examples is None else str(examples))
    with RunFile.read(Path(run)) as file:
        plan, evidence = recorded_plan(file), file.evidence()
        if data is None or isinstance(data, str | Path):
            split = examples_of(run, plan, evidence.environment, data=None if data is None else str(data))
        else:
            split = planned_examples(run, plan, python_data.source_of(data))
        return images_of(file, plan, evidence, split, selection).arrays


def selected(named: Sequence[str], attacks: Sequence[str], examples: str | None) -> Selection:
    """A selection; threats may be spelled in any way: 8./255 is 8/255."""
    return Selection(tuple(str(threat_models.parse(text)) for text in named), attacks, examples)


def examples_of(
    run: str | Path,
    plan: Plan,
    environment: dict[str, str],
    *,
    data: str | None,
    preparation: Preparation | None = None,
) -> Split:
    """The planned examples, from `data` or from where the run found them; no model is loaded.

    `environment` is that of the run. Raises UserError when they are missing, or are other images.
    """
    text = data or environment.get("data") or plan.data
    if not data and "data" not in environment and datasets.find(plan.data.partition(":")[0]) is None:
        raise UserError(
            f"{run} is about images that were given in Python ({plan.data}); give the same to robench.load_images with"
            " data=..., or as a file with --data"
        )
    prepared = datasets.prepared(text, preparation, environment)
    return planned_examples(run, plan, datasets.load(text, preparation=prepared, numbers=plan.examples))


def images_of(file: RunFile, plan: Plan, evidence: Evidence, split: Split, selection: Selection) -> Images:
    """The selected images. Raises UserError when there are none."""
    images = dict(file.images(split.shape))
    found, without = finds(plan, evidence, selection, images)
    if not found:
        if without:
            raise UserError(
                f"{file.path} holds no images of these finds, as runs merged with --slim do; make it again with robench"
                " evaluate"
            )
        raise UserError(
            f"{file.path} holds no find to export: no example is broken there; try more attacks, or larger threats"
        )
    rows = {number: row for row, number in enumerate(split.numbers)}
    places = [rows[find.claim.example] for find in found]
    arrays: Arrays = {
        "x": split.x[places].numpy(),
        "x_adv": np.stack([images[find.claim.id] for find in found]),
        "y": split.y[places].numpy(),
        "example": np.array([find.claim.example for find in found], dtype=np.int64),
        "threat": np.array([find.threat for find in found]),
        "attack": np.array([find.claim.attack for find in found]),
        "size": np.array([find.verdict.size for find in found], dtype=np.float64),
        "margin": np.array([find.verdict.margin for find in found], dtype=np.float64),
        "params": stacked([find.claim.params for find in found]).double().numpy(),
    }
    return Images(arrays, without)
