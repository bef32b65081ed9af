"""The outcome of each example: a pure function of the records, independent of their order."""

from collections.abc import Sequence
from enum import Enum

import msgspec

from ..errors import unknown
from ..evidence.nesting import kind, lies_in, share_of_limits
from ..evidence.records import MIN_SAMPLE, Claim, Evidence, Plan, PlannedAttack, PlannedThreat, Verdict
from .merging import consolidated


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
    found: list[tuple[Claim, Verdict]] = []
    for under, pairs in evidence.accepted.items():
        if kind(under) != kind(threat):
            continue
        inside = [(claim, verdict) for claim, verdict in pairs if lies_in(under, verdict.size, threat)]
        share = share_of_limits(under, threat) if inside else 1.0
        found += inside if share == 1 else [(c, msgspec.structs.replace(v, size=v.size * share)) for c, v in inside]
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
