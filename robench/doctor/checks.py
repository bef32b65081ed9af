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
from .attacks import AttackUnderTest
from .cases import Case
from .contract import breaches
from .exact_distances import fraction

SEED = 0
ROUNDING = 1e-4  # relative, of a distance

CONTRACT = "contract"  # the case of attacks of the user's own beside those with known distances

# Of threats that are no balls the distances are not known: what falls must be the same in every case that is alike.
OTHERS = {"rt": "rt:1px,10deg", "affine-lp": "affine:linf:0.02+l1:0.2", "affine-rt": "affine:linf:0.01+rt:1px,10deg"}


USUAL = {"linf": "linf:0.1", "l2": "l2:0.5", "l1": "l1:1", "l0": "l0:2", **OTHERS}
"""A threat model of each name, under which some images of a small linear model can be broken."""


@dataclass(frozen=True)
class CheckResult:
    """How an attack did in one case."""

    case: str
    broken: frozenset[int]  # the rows that the referee counts as broken
    complaint: str  # empty: it did as it must

    @property
    def passed(self) -> bool:
        """Whether there is nothing to complain of."""
        return not self.complaint


def check(tested: AttackUnderTest, cases: Sequence[Case]) -> Iterator[CheckResult]:
    """How the attack does in each case, in their order; one that is like another comes after it.

    An attack of the user's own is also held to the contract.
    """
    found: dict[str, CheckResult] = {}
    by_name = {case.name: case for case in cases}
    for case in cases:
        threat = _threat(tested, by_name.get(case.like, case))
        found[case.name] = _checked(tested, threat, case, found.get(case.like))
        yield found[case.name]
    if tested.users and cases:
        complaint = "; ".join(breaches(tested.attack, _threat(tested, cases[0])))
        yield CheckResult(CONTRACT, frozenset(), complaint)


def _checked(tested: AttackUnderTest, threat: ThreatModel, case: Case, like: CheckResult | None) -> CheckResult:
    job = Job(threat, tested.attack, Waiting.of(_items(tested.attack, case)))
    try:
        broken, complaints = _search(job, case)
    except Exception as error:  # whatever it is: one attack's failure is no reason to stop
        return CheckResult(case.name, frozenset(), _raised(f"{type(error).__name__}: {error}"))
    if not complaints and isinstance(threat, Ball):
        complaints = list(_against_the_truth(threat, case, broken, tested.reach))
    if not complaints and like is not None and like.passed:
        complaints = list(_against_the_like(threat, case, broken, like))
    return CheckResult(case.name, frozenset(broken), "; ".join(complaints))


def _threat(tested: AttackUnderTest, case: Case) -> ThreatModel:
    """A radius at which about half of the images must fall, and others cannot."""
    if tested.threat not in BALLS:
        return parse(OTHERS[tested.threat])
    reach = tested.reach if math.isfinite(tested.reach) else 1.0
    radius = reach * median(case.distances(tested.threat).values())
    return BALLS[tested.threat](fraction(math.ceil(radius) if tested.threat == "l0" else radius))


def _items(attack: AnyAttack, case: Case) -> Iterator[Item]:
    """One search from each image; of those that aim at classes, one at each that is wrong."""
    classes = case.model.classes
    for row in range(len(case.split)):
        targets = [k for k in range(classes) if k != case.split.y[row]] if attack.targets else [-1]
        yield from (Item(row, number, 0, target) for number, target in enumerate(targets))


def _search(job: Job, case: Case) -> tuple[set[int], list[str]]:
    """The rows on which it finds what a referee accepts, and what went wrong on the way."""
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
    params = torch.tensor([end.params or (0.0, 0.0, 0.0) for end in finds])
    decisions = Referee(case.model).judge(job.threat, case.split.x[rows], case.split.y[rows], images, params)
    turned_down = [decision.reason for decision in decisions if not decision.accepted]
    complaints = [f"an image it found {turned_down[0]}"] if turned_down else []
    return {row for row, decision in zip(rows, decisions, strict=True) if decision.accepted}, complaints


def _against_the_truth(threat: Ball, case: Case, broken: set[int], reach: float) -> Iterator[str]:
    """What lies well inside the radius must fall; what lies outside cannot."""
    distances = case.distances(threat.name)
    within = {row for row, far in distances.items() if far * reach <= threat.r * (1 + ROUNDING)}
    if missed := within - broken:
        yield f"misses {len(missed)} of the {len(within)} images that lie within {1 / reach:.3g} of the radius"
    if impossible := {row for row, far in distances.items() if far > threat.r * (1 + ROUNDING)} & broken:
        yield f"breaks {len(impossible)} images that lie beyond the radius"


def _against_the_like(threat: ThreatModel, case: Case, broken: set[int], like: CheckResult) -> Iterator[str]:
    """The same images under the same decisions."""
    if isinstance(threat, Ball) and case.slots > 1:
        return  # other logits are other numbers: between what must fall and what cannot, they may decide otherwise
    rows = set(case.correct)
    if apart := (broken & rows) ^ (like.broken & rows):
        yield f"{len(apart)} of {len(rows)} images end otherwise than in {like.case!r}"


def _raised(error: str) -> str:
    return f"raises {' '.join(error.split())[:120]}"
