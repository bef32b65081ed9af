"""Who did what under one threat: every attack's row, and what was turned down or went wrong."""

from collections.abc import Iterable
from fractions import Fraction
from functools import cached_property
from typing import Annotated

import msgspec
from msgspec import Meta

from ..evidence.records import (
    MOST_ITEMS,
    Claim,
    Count,
    Evidence,
    Failure,
    Plan,
    PlannedAttack,
    Rejection,
    Seconds,
    Spent,
    Total,
    Verdict,
)
from .merging import consolidated
from .outcomes import Outcome, answers, ball, breaks, done_items, is_spent, planned_threat

REJECTIONS: tuple[Rejection, ...] = ("outside", "outside the box", "does not fool", "not finite")


class AttackEntry(msgspec.Struct, frozen=True):
    """One attack under one threat, on the examples that were correct before any attack.

    `accuracy` and `alone` are null unless the run was with every attack and they are known: the attack,
    for `alone` every attack, has run on every correct example. Otherwise an attack met only what was left
    when its turn came: `standing` of `tried`.
    """

    name: str
    tried: Count  # examples on which it was spent, wholly or in part, or made a claim
    accuracy: float | None  # of the model, were this the only attack
    broken: Count  # with every attack those it broke, else those it broke first
    alone: Count | None  # broken by no other
    seconds: Seconds
    forwards: Total  # rows through the network, on the planned examples
    backwards: Total
    spec: str = ""
    standing: Count = 0  # examples on which it was spent wholly, in vain
    items: Annotated[int, Meta(ge=0, le=MOST_ITEMS)] = (
        0  # searches planned on each example: restarts times targets; 0 where an older file does not say
    )
    outcomes: str = ""  # with every attack, a letter per example: were this the only attack


class RejectionEntry(msgspec.Struct, frozen=True):
    """Claims of one attack that the referee turned down for the same cause, with the sentence for the first."""

    attack: str
    rejection: str
    claims: Count
    reason: str


class FailureEntry(msgspec.Struct, frozen=True):
    """An attack that raised, and has not finished since, on so many examples; the error on the first."""

    attack: str
    examples: Count
    error: str


class ThreatLedger:
    """The records about one planned threat and the planned examples that were correct before any attack."""

    def __init__(self, plan: Plan, evidence: Evidence, threat: str):
        self.plan = plan
        self.threat = threat
        self.planned = planned_threat(plan, threat).attacks
        self.labels = {attack.spec: attack.label for attack in self.planned}
        self.answered = answers(evidence)
        self.known = all(example in self.answered for example in plan.examples)
        self.correct = frozenset(example for example in plan.examples if self.answered.get(example, False))
        self.evidence = evidence
        self.finds = [(c, v) for c, v in breaks(evidence, threat) if c.example in self.correct]
        self.done = done_items(evidence, threat)

    def attacks(self) -> tuple[AttackEntry, ...]:
        """A row per planned attack, in plan order."""
        return tuple(self._attack(attack) for attack in self.planned)

    def rejected(self) -> dict[str, int]:
        """Rejected claims by their cause."""
        causes = [verdict.rejection for _, verdict in self._turned_down]
        return {cause: causes.count(cause) for cause in REJECTIONS}

    def rejections(self) -> tuple[RejectionEntry, ...]:
        """The same by attack and cause, in the order of the first such claim."""
        groups: dict[tuple[str, str], list[str]] = {}
        for claim, verdict in self._turned_down:
            groups.setdefault((claim.attack, verdict.rejection), []).append(verdict.reason)
        return tuple(
            RejectionEntry(self._label(attack), cause, len(reasons), reasons[0])
            for (attack, cause), reasons in groups.items()
        )

    def failures(self) -> tuple[FailureEntry, ...]:
        """The planned attacks that raised, in plan order."""
        raised = ((attack, self._raised(attack)) for attack in self.planned)
        return tuple(FailureEntry(a.label, len(dict(errors)), errors[0][1]) for a, errors in raised if errors)

    @cached_property
    def failed(self) -> frozenset[int]:
        """The examples on which a planned attack, or before it the model, raised and has not finished since."""
        clean = {f.example for f in self.evidence.failures if not f.threat} - self.answered.keys()
        return frozenset(clean | {example for attack in self.planned for example, _ in self._raised(attack)})

    @property
    def radius(self) -> Fraction | None:
        """Of the threat, where it is a ball."""
        return ball(self.threat)[1]

    def smallest(self) -> list[float]:
        """The size of the smallest find on each broken example."""
        sizes: dict[int, float] = {}
        for claim, verdict in self.finds:
            sizes[claim.example] = min(verdict.size, sizes.get(claim.example, verdict.size))
        return list(sizes.values())

    def elsewhere(self) -> int:
        """How many examples are broken only by evidence from outside the plan, or first by it."""
        credited = {c.example for c in self._first.values() if self._in_plan(c)}
        if self.plan.every_attack:
            credited = {c.example for c, _ in self.finds if self._in_plan(c)}
        return len({c.example for c, _ in self.finds} - credited)

    def ties(self) -> int:
        """How many broken examples owe it to ties alone: the best wrong logit never exceeds the right one."""
        beyond = {c.example for c, v in self.finds if v.margin != 0}
        return len({c.example for c, _ in self.finds} - beyond)

    def _attack(self, attack: PlannedAttack) -> AttackEntry:
        felled, spent = self._felled(attack), self._spent(attack)
        ours = [c for c in self._claims if c.attack == attack.spec]
        searches = [s for s in self._searches if s.attack == attack.spec]
        costs: list[Claim | Spent] = [*ours, *searches]
        first = {e for e in felled if self._in_plan(self._first[e]) and self._first[e].attack == attack.spec}
        measured = self._measured([attack])
        return AttackEntry(
            name=attack.label,
            tried=len({c.example for c in ours} | {s.example for s in searches if s.done}),
            accuracy=(len(self.correct) - len(felled)) / len(self.plan.examples) if measured else None,
            broken=len(felled if self.plan.every_attack else first),
            alone=len(felled - self._felled_by_others(attack)) if self._measured(self.planned) else None,
            seconds=self._seconds(attack),
            forwards=sum(c.forwards for c in costs),
            backwards=sum(c.backwards for c in costs),
            spec=attack.spec,
            standing=len(spent - felled),
            items=attack.items,
            outcomes="".join(self._letter(e, felled, spent).value for e in self.plan.examples)
            if self.plan.every_attack
            else "",
        )

    def _letter(self, example: int, felled: set[int], spent: set[int]) -> Outcome:
        if example in felled:
            return Outcome.BROKEN
        if example in spent:
            return Outcome.STANDING
        return Outcome.WRONG if self.answered.get(example) is False else Outcome.OPEN

    @cached_property
    def _claims(self) -> list[Claim]:
        by_id = {c.id: c for c in self.evidence.claims if self._ours(c)}
        return [by_id[i] for i in sorted(by_id)]

    @cached_property
    def _searches(self) -> tuple[Spent, ...]:
        return consolidated(s for s in self.evidence.spent if self._ours(s))

    @cached_property
    def _turned_down(self) -> list[tuple[Claim, Verdict]]:
        """Once per claim, in the order of their ids."""
        rejecting = (v for v in self.evidence.verdicts if not v.accepted)
        verdicts = {v.claim: v for v in sorted(rejecting, key=lambda v: v.reason)}
        return [(c, verdicts[c.id]) for c in self._claims if c.id in verdicts]

    @cached_property
    def _first(self) -> dict[int, Claim]:
        """Who broke each example: the accepted claim with the smallest id."""
        return {c.example: c for c, _ in reversed(self.finds)}

    def _raised(self, attack: PlannedAttack) -> list[tuple[int, str]]:
        """The examples on which it raised and has not finished since, with what it raised."""
        broken: set[int] = set() if self.plan.every_attack else {c.example for c, _ in self.finds}
        ended = self._felled(attack) | self._spent(attack) | broken
        errors = {(f.example, f.error) for f in self.evidence.failures if self._ours(f) and f.attack == attack.spec}
        return sorted((example, error) for example, error in errors if example not in ended)

    def _felled(self, attack: PlannedAttack) -> set[int]:
        return {c.example for c, _ in self.finds if self._in_plan(c) and c.attack == attack.spec}

    def _felled_by_others(self, attack: PlannedAttack) -> set[int]:
        return {c.example for c, _ in self.finds if self._in_plan(c) and c.attack != attack.spec}

    def _spent(self, attack: PlannedAttack) -> set[int]:
        return {e for e in self.correct if is_spent(attack, self.done.get((e, attack.spec), 0))}

    def _measured(self, attacks: Iterable[PlannedAttack]) -> bool:
        """Whether these attacks have each run to their end on every correct example, and all are known."""
        ended = (self._felled(attack) | self._spent(attack) for attack in attacks)
        return self.plan.every_attack and self.known and all(examples == self.correct for examples in ended)

    def _seconds(self, attack: PlannedAttack) -> float:
        """An effort is a running total, so of several the largest is the latest."""
        efforts = self.evidence.efforts
        return max((e.seconds for e in efforts if (e.threat, e.attack) == (self.threat, attack.spec)), default=0.0)

    def _ours(self, record: Claim | Spent | Failure) -> bool:
        return record.threat == self.threat and record.example in self.correct

    def _in_plan(self, claim: Claim) -> bool:
        return claim.threat == self.threat and claim.attack in self.labels

    def _label(self, spec: str) -> str:
        return self.labels.get(spec, spec)
