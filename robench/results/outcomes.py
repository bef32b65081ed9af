"""The outcome of each example: a pure function of the records, independent of their order."""

import re
from collections.abc import Sequence
from enum import Enum
from fractions import Fraction
from functools import lru_cache

import msgspec

from .. import radius
from ..errors import unknown
from ..evidence.records import MIN_SAMPLE, Claim, Evidence, Plan, PlannedAttack, PlannedThreat, Verdict
from .merging import consolidated

PATCH = re.compile(r"patch:(\d+)px")
ROTATED = re.compile(r"rt:([^,]+)px,([^,]+)deg(,pad\d+|)")
FAR = 10**60  # larger than any image, and well within floats
NORMS = ("linf", "l2", "l1", "l0")  # threats whose sizes are distances; named here, as tables are read without torch


class Outcome(str, Enum):
    """The outcome of one example under one threat, or under several; the letters of the summary file."""

    WRONG = "W"  # misclassified before any attack
    BROKEN = "B"  # an accepted adversarial image exists
    STANDING = "S"  # every planned attack failed on it
    OPEN = "O"  # work remains, or an attack failed to run


def outcomes(plan: Plan, evidence: Evidence, threat: str) -> str:
    """One letter per planned example, in plan order, for one planned threat.

    Evidence about other examples is ignored. An accepted image in `threat` counts, whatever attack found it and under
    whatever limits of the same kind. Under a threat without attacks examples stay open, because none was searched.
    Raises UserError if `threat` is not planned.
    """
    attacks = planned_threat(plan, threat).attacks
    correct = answers(evidence)
    broken = {claim.example for claim, _ in breaks(evidence, threat)}
    ended = ended_attacks(attacks, evidence, threat)

    def outcome(example: int) -> Outcome:
        if example not in correct:
            return Outcome.OPEN
        if not correct[example]:
            return Outcome.WRONG
        if example in broken:
            return Outcome.BROKEN
        finished = bool(attacks) and all(example in ended[a.spec] for a in attacks)
        return Outcome.STANDING if finished else Outcome.OPEN

    return "".join(outcome(example) for example in plan.examples)


def union(*letters: str) -> str:
    """The outcomes under all of several threats: broken where any is, standing only where all are, else open."""
    return "".join(_worst(column) for column in zip(*letters, strict=True))


def before_attack(plan: Plan, evidence: Evidence) -> str:
    """The outcomes of a plan without threats: wrong if the model was, else open, because none was searched."""
    correct = answers(evidence)
    return "".join(Outcome.OPEN if correct.get(example, True) else Outcome.WRONG for example in plan.examples)


def planned_threat(plan: Plan, threat: str) -> PlannedThreat:
    """The part of the plan about one threat. Raises UserError if there is none."""
    by_text = {planned.threat: planned for planned in plan.threats}
    if threat not in by_text:
        raise unknown("planned threat", threat, by_text)
    return by_text[threat]


def answers(evidence: Evidence) -> dict[int, bool]:
    """Whether the model was correct before any attack; if two machines disagree, it was wrong."""
    correct: dict[int, bool] = {}
    for clean in evidence.clean:
        correct[clean.example] = correct.get(clean.example, True) and clean.correct
    return correct


def breaks(evidence: Evidence, threat: str) -> list[tuple[Claim, Verdict]]:
    """The accepted claims whose images lie in `threat`, in the order of their ids, each pair once.

    Sizes are in the unit of `threat`: where they are shares of a limit, those of a smaller limit become smaller.
    """
    found = [
        (claim, _in_unit_of(threat, claim, verdict))
        for under, pairs in evidence.accepted.items()
        if under == threat or ball(under)[0] == ball(threat)[0]
        for claim, verdict in pairs
        if _lies_in(claim, verdict, threat)
    ]
    return sorted(found, key=lambda pair: (pair[0].id, pair[1].size))


def done_items(evidence: Evidence, threat: str) -> dict[tuple[int, str], int]:
    """The exhausted items, as bits, by example and attack."""
    return {(s.example, s.attack): s.done for s in consolidated(evidence.exhausted_under.get(threat, ()))}


def ended_attacks(attacks: Sequence[PlannedAttack], evidence: Evidence, threat: str) -> dict[str, set[int]]:
    """The examples on which nothing is left to do for each attack: it exhausted or rightly passed over them."""
    planned = {attack.spec: attack for attack in attacks}
    ended: dict[str, set[int]] = {spec: set() for spec in planned}
    for (example, spec), done in done_items(evidence, threat).items():
        if spec in planned and is_exhausted(planned[spec], done):
            ended[spec].add(example)
    for attack in attacks:
        ended[attack.spec] |= passed_over(attack, evidence, threat)
    return ended


def passed_over(attack: PlannedAttack, evidence: Evidence, threat: str) -> set[int]:
    """The examples that an attack need not search by its plan: by each rule that restricts it."""
    records = evidence.passed_over_by.get((threat, attack.spec), ())
    by_rule = []
    if attack.near is not None:
        by_rule.append({p.example for p in records if p.rule == "near" and p.value > attack.near})
    if attack.sample is not None:
        by_rule.append({p.example for p in records if p.rule == "sample" and p.value >= MIN_SAMPLE})
    return set.intersection(*by_rule) if by_rule else set()


def is_exhausted(attack: PlannedAttack, done: int) -> bool:
    """Whether a set of items contains all those that the plan lists for this attack."""
    wanted = (1 << attack.items) - 1
    return done & wanted == wanted


def _worst(column: Sequence[str]) -> Outcome:
    if Outcome.WRONG in column:
        return Outcome.WRONG
    if Outcome.BROKEN in column:
        return Outcome.BROKEN
    return Outcome.STANDING if set(column) == {Outcome.STANDING} else Outcome.OPEN


def _lies_in(claim: Claim, verdict: Verdict, threat: str) -> bool:
    """Whether an image that the referee found to be in `claim.threat` is also in `threat`, by its size."""
    if claim.threat == threat:
        return True
    # A smaller set lies in a larger one as a whole: the rounding of its members needs no second check.
    if _is_within(claim.threat, threat):
        return True
    (name, limit), (other, reach) = ball(threat), ball(claim.threat)
    if name != other or limit is None or reach is None:
        return False
    # The size under any other threat with a radius, such as elastic:1, is a share of that radius.
    return name in NORMS and limit >= verdict.size


def _in_unit_of(threat: str, claim: Claim, verdict: Verdict) -> Verdict:
    """The verdict with the size as a share of the limits of `threat`, at most; sizes in l_p balls are distances."""
    if claim.threat == threat or ball(threat)[0] in NORMS:
        return verdict
    shares = [float(a / b) if b else 0.0 for a, b in zip(_limits(claim.threat)[1], _limits(threat)[1], strict=False)]
    return msgspec.structs.replace(verdict, size=verdict.size * max(shares, default=1.0))


@lru_cache(maxsize=4096)
def _is_within(inner: str, outer: str) -> bool:
    """Whether both threats are of one kind, and no limit of the first exceeds that of the second."""
    (kind, reach), (other, limits) = _limits(inner), _limits(outer)
    return kind == other and bool(reach) and all(a <= b for a, b in zip(reach, limits, strict=True))


def _limits(threat: str) -> tuple[str, tuple[Fraction, ...]]:
    """The kind of a threat, and the numbers that bound it; none for a threat without nested sets."""
    name, limit = ball(threat)
    if limit is not None:
        return name, (limit,)
    try:
        if found := PATCH.fullmatch(threat):
            return name, (radius.read(found[1]),)
        if found := ROTATED.fullmatch(threat):
            return f"rt{found[3]}", tuple(map(radius.read, found.group(1, 2)))  # on one canvas
    except ValueError:  # in a file, the text may be anything
        pass
    return threat, ()


def ball_radius(threat: str) -> Fraction | None:
    """The radius of an l_p ball, in the unit of the sizes of its members; None for any other threat."""
    name, limit = ball(threat)
    return limit if name in NORMS else None


@lru_cache(maxsize=1024)
def ball(threat: str) -> tuple[str, Fraction | None]:
    """`linf:8/255` as a name and a radius; None if the text holds something else."""
    name, _, numbers = threat.partition(":")
    try:
        limit = radius.read(numbers)
    except ValueError:
        return name, None
    return name, limit if abs(limit) < FAR else None
