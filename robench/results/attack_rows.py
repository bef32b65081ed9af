"""The attacks under one threat: a row for each, and rejected claims and errors."""

from collections.abc import Set
from dataclasses import astuple, dataclass
from fractions import Fraction
from functools import cached_property
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from ..evidence.attack_key import AttackKey
from ..evidence.nesting import ball_radius
from ..evidence.records import (
    MAX_EXAMPLES,
    MAX_ITEMS,
    Claim,
    Count,
    Evidence,
    Exhausted,
    Failure,
    Plan,
    PlannedAttack,
    Rejection,
    Seconds,
    Total,
    Verdict,
    grouped,
)
from .merging import consolidated
from .outcomes import Outcome, answers, breaks, done_items, is_exhausted, passed_over, planned_threat

REJECTIONS: tuple[Rejection, ...] = ("outside", "outside the box", "does not fool", "not finite")


class AttackEntry(msgspec.Struct, frozen=True):
    """One attack under one threat, on the examples that were correct before any attack.

    `accuracy` and `alone` are null unless the run was with every attack, and the attack (for `alone`, every attack)
    has run on every correct example. Otherwise an attack ran only on the examples that earlier ones had left:
    `standing` of `tried`.
    """

    name: str
    tried: Count  # examples on which it was exhausted, at least in part, or made a claim
    accuracy: float | None  # of the model, if this were the only attack
    broken: Count  # with every attack those that it broke, else those that it broke first
    alone: Count | None  # broken by no other
    seconds: Seconds
    forwards: Total  # rows through the network, on the planned examples
    backwards: Total
    spec: str = ""
    standing: Count = 0  # examples on which it was fully exhausted without a find
    items: Annotated[int, Meta(ge=0, le=MAX_ITEMS)] = (
        0  # searches planned on each example: restarts times targets; 0 in older files
    )
    outcomes: str = ""  # with every attack: a letter per example, if this were the only attack
    # Which examples it searches, as in `evidence.records.PlannedAttack`; null: all that earlier attacks left.
    near: Annotated[float, Meta(gt=0, lt=1)] | None = None
    sample: Annotated[int, Meta(ge=1, le=MAX_EXAMPLES)] | None = None
    passed_over: Count = 0  # standing examples that it therefore did not search


class RejectionEntry(msgspec.Struct, frozen=True):
    """Claims of one attack that the referee rejected for one cause, with the sentence for the first."""

    attack: str
    rejection: str
    claims: Count
    reason: str


class FailureEntry(msgspec.Struct, frozen=True):
    """An attack that raised on some examples and has not finished since; the error on the first."""

    attack: str
    examples: Count
    error: str


class Rejected(NamedTuple):
    """Claims that were rejected for one cause."""

    claims: int
    first: int  # the number of the first one
    reason: str  # the sentence for it


@dataclass(frozen=True)
class AttackCounts:
    """What one attack did under one threat, as numbers that add up over parts of the examples."""

    tried: int = 0
    broken: int = 0
    first: int = 0  # of these, those that it broke first
    alone: int = 0  # of these, those that no other attack broke
    forwards: int = 0
    backwards: int = 0
    standing: int = 0
    passed_over: int = 0
    unfinished: int = 0  # correct examples on which it has not done its work
    # Of the examples that all first-order attacks before it, if there are any, have searched to the end without a find:
    searched_after: int = 0  # those that it has broken or searched to the end
    broken_after: int = 0
    pending_after: int = 0  # those on which it has not done its work, and which nothing else has broken

    def __add__(self, other: "AttackCounts") -> "AttackCounts":
        return AttackCounts(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


class ThreatRows:
    """The records about one planned threat and the planned examples that were correct before any attack."""

    def __init__(self, plan: Plan, evidence: Evidence, threat: str):
        self.plan = plan
        self.threat = threat
        self.planned = planned_threat(plan, threat).attacks
        self.labels = {attack.spec: attack.label for attack in self.planned}
        self.answered = answers(evidence)
        self.correct = frozenset(example for example in plan.examples if self.answered.get(example, False))
        self.evidence = evidence
        self.finds = [(c, v) for c, v in breaks(evidence, threat) if c.example in self.correct]
        self.done = done_items(evidence, threat)
        self._ended: dict[PlannedAttack, set[int]] = {}
        self._exhausted_by: dict[PlannedAttack, set[int]] = {}

    @cached_property
    def failed(self) -> frozenset[int]:
        """The examples on which a planned attack, or before it the model, raised and has not finished since."""
        clean = {f.example for f in self.evidence.failures if not f.threat} - self.answered.keys()
        return frozenset(clean | {example for attack in self.planned for example, _ in self.raised(attack)})

    def ended(self, attack: PlannedAttack) -> set[int]:
        """The examples on which a planned attack has done its work: those that it broke, exhausted or passed over."""
        if attack not in self._ended:
            self._ended[attack] = self._broken_by(attack) | self._exhausted(attack) | self._passed_over(attack)
        return self._ended[attack]

    @property
    def radius(self) -> Fraction | None:
        """The radius of the threat; None if it is no ball."""
        return ball_radius(self.threat)

    def smallest(self) -> dict[int, float]:
        """The size of the smallest find on each broken example, by its number."""
        sizes: dict[int, float] = {}
        for claim, verdict in self.finds:
            sizes[claim.example] = min(verdict.size, sizes.get(claim.example, verdict.size))
        return sizes

    @property
    def outside_plan(self) -> Set[int]:
        """The examples that evidence from outside the plan broke alone or first."""
        return self._outside_plan

    def by_claim(self) -> int:
        """The number of these examples that only images from files broke."""
        return sum(self._first[example].key.is_claim for example in self._outside_plan)

    def ties(self) -> int:
        """The number of examples broken only by ties: the best wrong logit never exceeds the correct one."""
        beyond = {c.example for c, v in self.finds if v.margin != 0}
        return len({c.example for c, _ in self.finds} - beyond)

    def rejected(self) -> dict[tuple[str, str], Rejected]:
        """The rejected claims by attack and cause."""
        groups: dict[tuple[str, str], Rejected] = {}
        for claim, verdict in self._rejected:
            place = claim.attack, verdict.rejection
            known = groups.get(place, Rejected(0, claim.id, verdict.reason))
            groups[place] = known._replace(claims=known.claims + 1)
        return groups

    def counts(self, attack: PlannedAttack) -> AttackCounts:
        """What one planned attack did."""
        broken, exhausted = self._broken_by(attack), self._exhausted(attack)
        ours, searches = self._claims_by.get(attack.spec, ()), self._searches_by.get(attack.spec, ())
        costs: list[Claim | Exhausted] = [*ours, *searches]
        first = {e for e in broken if self._in_plan(self._first[e]) and self._first[e].attack == attack.spec}
        left = self._left_by_gradients(attack)
        return AttackCounts(
            tried=len({c.example for c in ours} | {s.example for s in searches if s.done}),
            broken=len(broken),
            first=len(first),
            alone=len(broken - self._broken_by_others(attack)),
            forwards=sum(c.forwards for c in costs),
            backwards=sum(c.backwards for c in costs),
            standing=len(exhausted - broken),
            passed_over=len(self._passed_over(attack) - exhausted - {c.example for c, _ in self.finds}),
            unfinished=len(self.ended(attack) ^ self.correct),
            searched_after=len(left & (broken | exhausted)),
            broken_after=len(left & broken),
            pending_after=len(left - self.ended(attack) - {c.example for c, _ in self.finds}),
        )

    def letters(self, attack: PlannedAttack) -> str:
        """The outcome of each example, if this were the only attack."""
        broken, exhausted = self._broken_by(attack), self._exhausted(attack)
        return "".join(self._letter(e, broken, exhausted).value for e in self.plan.examples)

    def _letter(self, example: int, broken: set[int], exhausted: set[int]) -> Outcome:
        if example in broken:
            return Outcome.BROKEN
        if example in exhausted:
            return Outcome.STANDING
        return Outcome.WRONG if self.answered.get(example) is False else Outcome.OPEN

    @cached_property
    def _claims(self) -> list[Claim]:
        by_id = {c.id: c for c in self.evidence.claims if self._ours(c)}
        return [by_id[i] for i in sorted(by_id)]

    @cached_property
    def _claims_by(self) -> dict[str, tuple[Claim, ...]]:
        """The claims of each attack."""
        return grouped((claim.attack, claim) for claim in self._claims)

    @cached_property
    def _searches_by(self) -> dict[str, tuple[Exhausted, ...]]:
        """The exhausted searches of each attack, one for each example."""
        searches = self.evidence.exhausted_under.get(self.threat, ())
        return grouped((s.attack, s) for s in consolidated(s for s in searches if s.example in self.correct))

    @cached_property
    def _rejected(self) -> list[tuple[Claim, Verdict]]:
        """Each rejected claim once, in the order of their ids."""
        rejecting = (v for v in self.evidence.verdicts if not v.accepted)
        verdicts = {v.claim: v for v in sorted(rejecting, key=lambda v: v.reason)}
        return [(c, verdicts[c.id]) for c in self._claims if c.id in verdicts]

    @cached_property
    def _first(self) -> dict[int, Claim]:
        """The claim that broke each example: the accepted one with the smallest id, of a search if there is one."""
        searches_first = sorted((c for c, _ in self.finds), key=lambda claim: claim.key.is_claim)
        return {c.example: c for c in reversed(searches_first)}

    @cached_property
    def _outside_plan(self) -> set[int]:
        credited = {c.example for c in self._first.values() if self._in_plan(c)}
        if self.plan.every_attack:
            credited = {c.example for c, _ in self.finds if self._in_plan(c)}
        return {c.example for c, _ in self.finds} - credited

    def raised(self, attack: PlannedAttack) -> list[tuple[int, str]]:
        """The examples on which it raised and has not finished since, with what it raised, in ascending order."""
        broken: set[int] = set() if self.plan.every_attack else {c.example for c, _ in self.finds}
        ended = self.ended(attack) | broken
        errors = {(f.example, f.error) for f in self.evidence.failures if self._ours(f) and f.attack == attack.spec}
        return sorted((example, error) for example, error in errors if example not in ended)

    @cached_property
    def _broken(self) -> dict[str, set[int]]:
        """The examples that each planned attack broke."""
        finds = grouped((claim.attack, claim.example) for claim, _ in self.finds if self._in_plan(claim))
        return {attack: set(examples) for attack, examples in finds.items()}

    def _broken_by(self, attack: PlannedAttack) -> set[int]:
        return self._broken.get(attack.spec, set())

    def _broken_by_others(self, attack: PlannedAttack) -> set[int]:
        return set().union(*(examples for other, examples in self._broken.items() if other != attack.spec))

    def _exhausted(self, attack: PlannedAttack) -> set[int]:
        if attack not in self._exhausted_by:
            done = {e: self.done.get((e, attack.spec), 0) for e in self.correct}
            whole = {items for items in set(done.values()) if is_exhausted(attack, items)}
            self._exhausted_by[attack] = {e for e, items in done.items() if items in whole}
        return self._exhausted_by[attack]

    def _left_by_gradients(self, attack: PlannedAttack) -> set[int]:
        """The examples on which all first-order attacks before it, save those on near ones, ended without a find."""
        before = self.planned[: self.planned.index(attack)]
        gradients = [a for a in before if a.near is None and AttackKey.parse(a.spec).kind == "first-order"]
        left = [self._exhausted(a) - self._broken_by(a) for a in gradients]
        return set.intersection(*left) if left else set()

    def _passed_over(self, attack: PlannedAttack) -> set[int]:
        return passed_over(attack, self.evidence, self.threat) & self.correct

    def _ours(self, record: Claim | Failure) -> bool:
        return record.threat == self.threat and record.example in self.correct

    def _in_plan(self, claim: Claim) -> bool:
        return claim.threat == self.threat and claim.attack in self.labels
