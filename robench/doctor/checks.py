"""Runs an attack on each case, and compares the images it breaks with those it must and those it cannot break."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from ..evidence.referee import Referee
from ..problem.threats import BALLS, Ball, ThreatModel, parse
from ..problem.threats.base import stacked
from ..search.attack import AnyAttack
from ..search.engine.engine import Engine
from ..search.engine.job import Job
from ..search.engine.scheduler import Item, Waiting
from .attacks import AttackUnderTest
from .cases import Case
from .contract import breaches
from .exact_distances import fraction

SEED = 0
ROUNDING = 1e-4  # relative, of a distance

CONTRACT = "contract"  # the case in which an attack of the user's own is checked against the contract

# Threats without known distances: an attack must break the same images in all cases that have the same decisions.
UNMEASURED = {
    "rt": "rt:1px,10deg",
    "rt-l2": "rt-l2:1px,10deg+l2:0.2",
    "affine-lp": "affine:linf:0.02+l1:0.2",
    "affine-rt": "affine:linf:0.01+rt:1px,10deg",
    "corruption": "corruption:gaussian_noise+fog@5",
    "patch": "patch:1px",
    "jpeg-linf": "jpeg-linf:0.25",
    "jpeg-l2": "jpeg-l2:1",
    "jpeg-l1": "jpeg-l1:4",
    "elastic": "elastic:0.5",
}

USUAL = {"linf": "linf:0.1", "l2": "l2:0.5", "l1": "l1:1", "l0": "l0:2", **UNMEASURED}
"""One threat model of each name, under which some images of a small linear model can be broken."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one attack on one case."""

    case: str
    broken: frozenset[int]  # the rows that the referee accepts as broken
    failure: str  # what is wrong; empty if the check passed

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failure


def check(tested: AttackUnderTest, cases: Sequence[Case]) -> Iterator[CheckResult]:
    """Runs the attack on each case, in order. A case that names another in `same_as` must come after it.

    An attack of the user's own is also checked against the contract of attacks.
    """
    results: dict[str, CheckResult] = {}
    by_name = {case.name: case for case in cases}
    for case in cases:
        threat = _threat(tested, by_name.get(case.same_as, case))
        results[case.name] = _check_case(tested, threat, case, results.get(case.same_as))
        yield results[case.name]
    if tested.users and cases:
        failure = "; ".join(breaches(tested.attack, _threat(tested, cases[0])))
        yield CheckResult(CONTRACT, frozenset(), failure)


def _check_case(tested: AttackUnderTest, threat: ThreatModel, case: Case, reference: CheckResult | None) -> CheckResult:
    """One check; `reference` is the result on the case with the same images and decisions."""
    job = Job(threat, tested.attack, Waiting.of(_items(tested.attack, case)))
    try:
        broken, failures = _search(job, case)
    except Exception as error:  # of any kind: the other attacks are still checked
        return CheckResult(case.name, frozenset(), _raised(f"{type(error).__name__}: {error}"))
    if not failures and isinstance(threat, Ball):
        failures = list(_compare_with_distances(threat, case, broken, tested.reach))
    if not failures and reference is not None and reference.passed:
        failures = list(_compare_with_reference(threat, case, broken, reference))
    return CheckResult(case.name, frozenset(broken), "; ".join(failures))


def _threat(tested: AttackUnderTest, case: Case) -> ThreatModel:
    """The threat model, with a radius at which the attack must break about half of the images."""
    if tested.threat not in BALLS:
        return parse(UNMEASURED[tested.threat])
    reach = tested.reach if math.isfinite(tested.reach) else 1.0
    radius = reach * median(case.distances(tested.threat).values())
    return BALLS[tested.threat](fraction(math.ceil(radius) if tested.threat == "l0" else radius))


def _items(attack: AnyAttack, case: Case) -> Iterator[Item]:
    """One search from each image; for targeted attacks, one towards each wrong class."""
    classes = case.model.classes
    for row in range(len(case.split)):
        targets = [k for k in range(classes) if k != case.split.y[row]] if attack.targets else [-1]
        yield from (Item(row, number, 0, target) for number, target in enumerate(targets))


def _search(job: Job, case: Case) -> tuple[set[int], list[str]]:
    """The rows that the referee accepts as broken, and what went wrong."""
    ended = [end for some in Engine(case.model, case.split, SEED, case.slots).work([job]) for end in some]
    errors = [end.error for end in ended if end.error] or ([job.error] if job.error else [])
    if errors:
        on = f" on {len(errors)} of {len(case.split)} images" if len(errors) > 1 else ""
        return set(), [_raised(errors[0]) + on]
    finds = [end for end in ended if end.x_adv is not None]
    if not finds:
        return set(), []
    rows = [end.item.row for end in finds]
    images = torch.stack([end.x_adv for end in finds if end.x_adv is not None])
    params = stacked([end.params for end in finds])
    decisions = Referee(case.model).judge(job.threat, case.split.x[rows], case.split.y[rows], images, params)
    rejected = [decision.reason for decision in decisions if not decision.accepted]
    failures = [f"an image it found {rejected[0]}"] if rejected else []
    return {row for row, decision in zip(rows, decisions, strict=True) if decision.accepted}, failures


def _compare_with_distances(threat: Ball, case: Case, broken: set[int], reach: float) -> Iterator[str]:
    """Images well within the radius must be broken; images beyond it cannot be."""
    distances = case.distances(threat.name)
    within = {row for row, far in distances.items() if far * reach <= threat.r * (1 + ROUNDING)}
    if missed := within - broken:
        yield f"misses {len(missed)} of the {len(within)} images that lie within {1 / reach:.3g} of the radius"
    if impossible := {row for row, far in distances.items() if far > threat.r * (1 + ROUNDING)} & broken:
        yield f"breaks {len(impossible)} images that lie beyond the radius"


def _compare_with_reference(threat: ThreatModel, case: Case, broken: set[int], reference: CheckResult) -> Iterator[str]:
    """The same images under the same decisions must be broken."""
    if isinstance(threat, Ball) and case.slots > 1:
        return  # other logits give other gradients: images that may or may not be broken can end differently
    rows = set(case.correct)
    if differing := (broken & rows) ^ (reference.broken & rows):
        yield f"{len(differing)} of {len(rows)} images end differently than in {reference.case!r}"


def _raised(error: str) -> str:
    return f"raises {' '.join(error.split())[:120]}"
