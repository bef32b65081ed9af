"""Numbers of a summary that add up over parts of the examples.

Outcomes, counts and the first of each kind of error are taken from one part after the other, so that no more than one
part is in memory. What stays for each example is a letter per threat, and one per attack where every attack was run.
"""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..evidence.nesting import ball_radius
from ..evidence.records import Effort, Evidence, Plan, PlannedAttack
from .attack_rows import (
    REJECTIONS,
    AttackCounts,
    AttackEntry,
    FailureEntry,
    Rejected,
    RejectionEntry,
    ThreatRows,
)
from .masking.signs import sign
from .outcomes import Outcome, answers, before_attack, outcomes, union
from .parts import EvidenceSource, Part, Places, parts_of

Letters = NDArray[np.uint8]
"""The letters of outcomes as bytes, by place in the plan."""

POINTS = 20  # of a curve, besides radius 0


def no_letters(plan: Plan) -> Letters:
    """Room for a letter per planned example."""
    return np.full(len(plan.examples), ord(Outcome.OPEN.value), np.uint8)


def as_text(letters: Letters) -> str:
    """The letters as the summary file holds them."""
    return str(letters.data, "ascii")  # without another copy


def as_letters(text: str) -> Letters:
    """The reverse of `as_text`."""
    return np.frombuffer(text.encode("ascii"), np.uint8)


def curve_radii(reach: Fraction) -> list[float]:
    """The radii of a curve: 0, and twentieths of the threat's radius up to the whole."""
    return [float(reach * i / POINTS) for i in range(POINTS + 1)]


@dataclass
class CleanTally:
    """The answers before any attack."""

    correct: int = 0
    open: int = 0
    ties: int = 0
    nan: int = 0
    error: tuple[int, str] | None = None  # on the first open example

    def add(self, plan: Plan, evidence: Evidence) -> None:
        """Takes in a part of the examples."""
        answered, planned = answers(evidence), frozenset(plan.examples)
        self.correct += sum(answered.get(example, False) for example in plan.examples)
        self.open += sum(example not in answered for example in plan.examples)
        self.ties += len({c.example for c in evidence.clean if c.tied} & planned)
        self.nan += len({c.example for c in evidence.clean if c.margin != c.margin} & planned)
        unknown = planned - answered.keys()
        errors = [(f.example, f.error) for f in evidence.failures if not f.threat and f.example in unknown]
        self.error = min([*errors, *([self.error] if self.error else [])], default=None)


@dataclass
class AttackTally:
    """One attack under one threat."""

    counts: AttackCounts = field(default_factory=AttackCounts)
    outcomes: Letters | None = None  # with every attack
    failures: int = 0
    error: tuple[int, str] | None = None  # on the first failed example

    def add(self, rows: ThreatRows, attack: PlannedAttack, places: Places) -> None:
        """Takes in a part of the examples."""
        self.counts += rows.counts(attack)
        if self.outcomes is not None:
            self.outcomes[places] = as_letters(rows.letters(attack))
        if raised := rows.raised(attack):
            self.failures += len(dict(raised))
            self.error = min(raised[0], self.error or raised[0])


class ThreatTally:
    """One threat."""

    def __init__(self, plan: Plan, threat: str, planned: Sequence[PlannedAttack]) -> None:
        self.plan, self.threat = plan, threat
        self.letters = no_letters(plan)
        every = plan.every_attack
        self._attacks = {a: AttackTally(outcomes=no_letters(plan) if every else None) for a in planned}
        self._rejected: dict[tuple[str, str], Rejected] = {}
        self.radius = ball_radius(threat)
        self.radii = curve_radii(self.radius or Fraction(0))
        self.within = np.zeros(len(self.radii), np.int64)  # examples with a find of at most each radius
        self.correct = 0
        self.elsewhere = self.by_claim = self.ties = self.nan = 0
        self.failed_open = 0

    def add(self, part: Part) -> tuple[str, Set[int]]:
        """Takes in a part of the examples. Returns their outcomes, and those on which a planned attack raised."""
        rows = ThreatRows(part.plan, part.evidence, self.threat)
        letters = outcomes(part.plan, part.evidence, self.threat)
        self.letters[part.places] = as_letters(letters)
        for attack, tally in self._attacks.items():
            tally.add(rows, attack, part.places)
        for place, found in rows.rejected().items():
            known = self._rejected.get(place, Rejected(0, found.first, found.reason))
            _, first, reason = min(known, found, key=lambda r: r.first)
            self._rejected[place] = Rejected(known.claims + found.claims, first, reason)
        if self.plan.curve and self.radius is not None:
            sizes = np.sort(np.array(list(rows.smallest().values())))
            self.within += np.searchsorted(sizes, self.radii, side="right")
        self.correct += len(rows.correct)
        self.elsewhere += len(rows.outside_plan)
        self.by_claim += rows.by_claim()
        self.ties += rows.ties()
        nan = {p.example for p in part.evidence.probes if (p.threat, p.name) == (self.threat, "nan")}
        self.nan += len(nan & set(part.plan.examples))
        self.failed_open += failed_among(part.plan, letters, rows.failed)
        return letters, rows.failed

    def attacks(self, efforts: Sequence[Effort], *, known: bool) -> tuple[AttackEntry, ...]:
        """A row per planned attack, in plan order; `known` says whether every clean image has an answer."""
        every = self.plan.every_attack and known
        finished = {attack: every and not tally.counts.unfinished for attack, tally in self._attacks.items()}
        return tuple(
            self._entry(attack, tally, efforts, measured=finished[attack], compared=all(finished.values()) and every)
            for attack, tally in self._attacks.items()
        )

    def _entry(
        self, attack: PlannedAttack, tally: AttackTally, efforts: Sequence[Effort], *, measured: bool, compared: bool
    ) -> AttackEntry:
        counts = tally.counts
        seconds = (e.seconds for e in efforts if (e.threat, e.attack) == (self.threat, attack.spec))
        return AttackEntry(
            name=attack.label,
            tried=counts.tried,
            accuracy=(self.correct - counts.broken) / len(self.plan.examples) if measured else None,
            broken=counts.broken if self.plan.every_attack else counts.first,
            alone=counts.alone if compared else None,
            seconds=max(seconds, default=0.0),  # an effort is a running total, so the largest is the latest
            forwards=counts.forwards,
            backwards=counts.backwards,
            spec=attack.spec,
            standing=counts.standing,
            items=attack.items,
            outcomes="" if tally.outcomes is None else as_text(tally.outcomes),
            near=attack.near,
            sample=attack.sample,
            passed_over=counts.passed_over,
        )

    def sign_of_masking(self) -> str:
        """What attacks of another kind broke of what gradient attacks left, if it is much."""
        return sign({attack: tally.counts for attack, tally in self._attacks.items()})

    def rejected(self) -> dict[str, int]:
        """Rejected claims by their cause."""
        causes: Counter[str] = Counter()
        for (_, cause), found in self._rejected.items():
            causes[cause] += found.claims
        return {cause: causes[cause] for cause in REJECTIONS}

    def rejections(self) -> tuple[RejectionEntry, ...]:
        """Rejected claims by attack and cause, in the order of the first such claim."""
        labels = {attack.spec: attack.label for attack in self._attacks}
        groups = sorted(self._rejected.items(), key=lambda group: group[1].first)
        return tuple(
            RejectionEntry(labels.get(attack, attack), cause, found.claims, found.reason)
            for (attack, cause), found in groups
        )

    def failures(self) -> tuple[FailureEntry, ...]:
        """The planned attacks that raised, in plan order."""
        return tuple(
            FailureEntry(attack.label, tally.failures, tally.error[1])
            for attack, tally in self._attacks.items()
            if tally.error is not None
        )


class Tally:
    """A plan, from all parts of its examples."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.clean = CleanTally()
        self.threats = [ThreatTally(plan, t.threat, t.attacks) for t in plan.threats]
        self.union = no_letters(plan)
        self.failed_open = 0  # of the open examples, those on which an attack, or the model, raised

    def add(self, part: Part) -> None:
        """Takes in a part of the examples."""
        self.clean.add(part.plan, part.evidence)
        found = [threat.add(part) for threat in self.threats]
        rows = [letters for letters, _ in found]
        letters = union(*rows) if rows else before_attack(part.plan, part.evidence)
        self.union[part.places] = as_letters(letters)
        failed = frozenset[int]().union(*(of for _, of in found))
        self.failed_open += failed_among(part.plan, letters, failed)


def signs_of_masking(plan: Plan, source: EvidenceSource) -> dict[str, str]:
    """What attacks of another kind broke of what gradient attacks left, for each threat where it is much."""
    tally = Tally(plan)
    for part in parts_of(plan, source):
        tally.add(part)
    found = {of.threat: of.sign_of_masking() for of in tally.threats}
    return {threat: sign for threat, sign in found.items() if sign}


def failed_among(plan: Plan, letters: str, failed: Set[int]) -> int:
    """The number of open examples on which an attack, or the model, raised."""
    return sum(e in failed for e, letter in zip(plan.examples, letters, strict=True) if letter == Outcome.OPEN)
