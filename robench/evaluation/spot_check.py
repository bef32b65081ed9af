"""Some of the examples that stand, searched again with other noise: a test of the run's word for them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .. import api
from ..api import EvalRequest
from ..errors import UserError
from ..evidence.records import Evidence, Plan
from ..evidence.referee import Referee
from ..evidence.store import RunFile
from ..problem import threats
from ..problem.classifier import Classifier
from ..problem.split import Split
from ..protocols import Protocol, ThreatChoice, rebuilt
from ..results.gate import broken_by
from ..results.outcomes import Outcome, outcomes
from ..results.stats.intervals import clopper_pearson
from ..search.own_attack import Consent
from .runner import Progress

LEVEL = 0.95  # of the bound


@dataclass(frozen=True)
class SpotCheck:
    """What came of it."""

    standing: int  # examples that stand under one threat or more, in the run
    chosen: tuple[int, ...]  # those of them that were to be searched again
    seed: int
    broken: dict[tuple[int, str], str] = field(default_factory=dict)  # by example and threat: the attack
    open: frozenset[int] = frozenset()  # examples whose search did not end
    left_out: tuple[str, ...] = ()  # attacks that cannot run here
    finished: bool = True

    @property
    def examples_broken(self) -> int:
        """How many examples were broken."""
        return len({example for example, _ in self.broken})

    @property
    def searched(self) -> int:
        """How many were searched to the end, or broken."""
        return self.examples_broken + len(set(self.chosen) - self.open - {example for example, _ in self.broken})

    @property
    def bound(self) -> float:
        """The share of all standing examples that such a search would break, at most: exact, one-sided, at LEVEL."""
        return clopper_pearson(self.examples_broken, self.searched, 2 * LEVEL - 1)[1]


def standing(plan: Plan, evidence: Evidence) -> dict[int, tuple[str, ...]]:
    """The examples that stand under one planned threat or more, each with these threats, in plan order."""
    letters = {t.threat: outcomes(plan, evidence, t.threat) for t in plan.threats}
    under = {
        example: tuple(threat for threat, row in letters.items() if row[place] == Outcome.STANDING)
        for place, example in enumerate(plan.examples)
    }
    return {example: texts for example, texts in under.items() if texts}


def sample(examples: Sequence[int], n: int, seed: int) -> tuple[int, ...]:
    """n of them in their order, or all where there are fewer; each has the same chance."""
    chosen = frozenset(random.Random(seed).sample(examples, min(n, len(examples))))
    return tuple(example for example in examples if example in chosen)


def spot_check(
    plan: Plan,
    evidence: Evidence,
    whole: Split,
    classifier: Classifier,
    referee: Referee,
    *,
    n: int,
    seed: int,
    progress: Progress,
    consent: Consent | None = None,
) -> SpotCheck:
    """Search n standing examples again, all of them where there are fewer, each with the same chance to be chosen.

    Every planned attack that can run here is tried on each threat under which they stand; an attack in a file only
    where there is consent. Nothing is written. Ctrl-C ends it early. Raises UserError where nothing can be searched.
    """
    under = standing(plan, evidence)
    examples = sample(list(under), n, seed)
    protocol, left_out = _protocol(plan, classifier.classes, consent)
    if not protocol.threats:
        raise UserError(f"nothing can be searched again: {'; '.join(left_out) or 'the plan names no attack'}")
    if not examples:
        return SpotCheck(len(under), examples, seed, left_out=left_out)
    rows = {number: row for row, number in enumerate(whole.numbers)}
    split = whole.take([rows[example] for example in examples])
    chosen = frozenset(examples)
    known = [(c, v) for c, v in evidence.judged() if v.accepted and c.example in chosen]
    with RunFile.in_memory() as run:
        with run.writing():  # what is broken already is not searched
            run.adopt(Evidence(claims=tuple(c for c, _ in known), verdicts=tuple(v for _, v in known)), {}, [])
        search = api.evaluation(
            EvalRequest(seed=seed, precision="float32"),
            protocol,
            split,
            classifier,
            referee,
            run,
            {},
            progress=progress,
        )
        finished = True
        try:
            search.answer()
        except KeyboardInterrupt:
            finished = False
        broken, still_open = _now(search.plan, run.evidence(), under)
    return SpotCheck(len(under), examples, seed, broken, still_open, left_out, finished)


def _protocol(plan: Plan, classes: int, consent: Consent | None) -> tuple[Protocol, tuple[str, ...]]:
    """The plan's threats with the attacks that can run here; and those that cannot."""
    choices, left_out = [], []
    for t in plan.threats:
        attacks = []
        for a in t.attacks:
            try:
                attacks.append(rebuilt.attack(a.label, a.spec, a.items, classes, consent))
            except UserError as error:
                left_out.append(f"{a.label} under {t.threat} ({error})")
        if attacks:
            choices.append(ThreatChoice(threats.parse(t.threat), tuple(attacks)))
    eot = plan.eot if plan.passes > 1 else None
    return Protocol(plan.protocol, "", "", None, plan.seed, tuple(choices), eot), tuple(left_out)


def _now(
    plan: Plan, evidence: Evidence, under: Mapping[int, Sequence[str]]
) -> tuple[dict[tuple[int, str], str], frozenset[int]]:
    """By example and threat, the attack that broke what stood; and the examples that were not searched to the end."""
    broken: dict[tuple[int, str], str] = {}
    still_open = set()
    for t in plan.threats:
        by = broken_by(plan, evidence, t.threat)
        for example, letter in zip(plan.examples, outcomes(plan, evidence, t.threat), strict=True):
            if t.threat in under[example]:
                if letter == Outcome.BROKEN:
                    broken[example, t.threat] = by[example]
                elif letter == Outcome.OPEN:
                    still_open.add(example)
    return broken, frozenset(still_open)
