"""Puts an attack into a situation, and compares what falls with what must."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from ..evidence.referee import Referee
from ..problem.threats import BALLS, Ball, ThreatModel, parse
from ..search.attack import AnyAttack
from ..search.engine.engine import Engine
from ..search.engine.job import Job
from ..search.engine.scheduler import Item, Waiting
from .attacks import Patient
from .cases import Case
from .exact_distances import fraction

SEED = 0
ROUNDING = 1e-4  # relative, of a distance

# Of threats that are no balls the distances are not known: what falls must be the same in every case that is alike.
OTHERS = {"rt": "rt:1px,10deg", "affine-lp": "affine:linf:0.02+l1:0.2", "affine-rt": "affine:linf:0.01+rt:1px,10deg"}


@dataclass(frozen=True)
class Finding:
    """How an attack did in one case."""

    case: str
    fallen: frozenset[int]  # the rows that the referee counts as broken
    complaint: str  # empty: it did as it must

    @property
    def passed(self) -> bool:
        """Whether there is nothing to complain of."""
        return not self.complaint


def examine(patient: Patient, cases: Sequence[Case]) -> Iterator[Finding]:
    """How the attack does in each case, in their order; one that is like another comes after it."""
    found: dict[str, Finding] = {}
    by_name = {case.name: case for case in cases}
    for case in cases:
        threat = _threat(patient, by_name.get(case.like, case))
        found[case.name] = _examined(patient, threat, case, found.get(case.like))
        yield found[case.name]


def _examined(patient: Patient, threat: ThreatModel, case: Case, like: Finding | None) -> Finding:
    job = Job(threat, patient.attack, Waiting.of(_items(patient.attack, case)))
    try:
        fallen, complaints = _search(job, case)
    except Exception as error:  # whatever it is: one attack's failure is no reason to stop
        return Finding(case.name, frozenset(), _told(f"{type(error).__name__}: {error}"))
    if not complaints and isinstance(threat, Ball):
        complaints = list(_against_the_truth(threat, case, fallen, patient.reach))
    if not complaints and like is not None and like.passed:
        complaints = list(_against_the_like(threat, case, fallen, like))
    return Finding(case.name, frozenset(fallen), "; ".join(complaints))


def _threat(patient: Patient, case: Case) -> ThreatModel:
    """A radius at which about half of the images must fall, and others cannot."""
    if patient.threat not in BALLS:
        return parse(OTHERS[patient.threat])
    reach = patient.reach if math.isfinite(patient.reach) else 1.0
    radius = reach * median(case.distances(patient.threat).values())
    return BALLS[patient.threat](fraction(math.ceil(radius) if patient.threat == "l0" else radius))


def _items(attack: AnyAttack, case: Case) -> Iterator[Item]:
    """One search from each image; of those that aim at classes, one at each that is wrong."""
    classes = case.model.classes
    for row in range(len(case.split)):
        targets = [k for k in range(classes) if k != case.split.y[row]] if attack.targets else [-1]
        yield from (Item(row, number, 0, target) for number, target in enumerate(targets))


def _search(job: Job, case: Case) -> tuple[set[int], list[str]]:
    """The rows on which it finds what a referee accepts, and what went wrong on the way."""
    ended = [end for some in Engine(case.model, case.split, SEED, case.lanes).work([job]) for end in some]
    errors = [end.error for end in ended if end.error] or ([job.error] if job.error else [])
    if errors:
        on = f" on {len(errors)} of {len(case.split)} images" if len(errors) > 1 else ""
        return set(), [_told(errors[0]) + on]
    finds = [end for end in ended if end.x_adv is not None]
    if not finds:
        return set(), []
    rows = [end.item.row for end in finds]
    images = torch.stack([end.x_adv for end in finds if end.x_adv is not None])
    witnesses = torch.tensor([end.witness or (0.0, 0.0, 0.0) for end in finds])
    rulings = Referee(case.model).judge(job.threat, case.split.x[rows], case.split.y[rows], images, witnesses)
    turned_down = [ruling.reason for ruling in rulings if not ruling.accepted]
    complaints = [f"an image it found {turned_down[0]}"] if turned_down else []
    return {row for row, ruling in zip(rows, rulings, strict=True) if ruling.accepted}, complaints


def _against_the_truth(threat: Ball, case: Case, fallen: set[int], reach: float) -> Iterator[str]:
    """What lies well inside the radius must fall; what lies outside cannot."""
    distances = case.distances(threat.name)
    within = {row for row, far in distances.items() if far * reach <= threat.r * (1 + ROUNDING)}
    if missed := within - fallen:
        yield f"misses {len(missed)} of the {len(within)} images that lie within {1 / reach:.3g} of the radius"
    if impossible := {row for row, far in distances.items() if far > threat.r * (1 + ROUNDING)} & fallen:
        yield f"breaks {len(impossible)} images that lie beyond the radius"


def _against_the_like(threat: ThreatModel, case: Case, fallen: set[int], like: Finding) -> Iterator[str]:
    """The same images under the same decisions."""
    if isinstance(threat, Ball) and case.lanes > 1:
        return  # other logits are other numbers: between what must fall and what cannot, they may decide otherwise
    rows = set(case.right)
    if apart := (fallen & rows) ^ (like.fallen & rows):
        yield f"{len(apart)} of {len(rows)} images end otherwise than in {like.case!r}"


def _told(error: str) -> str:
    return f"raises {' '.join(error.split())[:120]}"
