"""Some standing examples, searched again with other noise.

The images of broken examples prove themselves; that the others stand is only claimed. This search tests the claim.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..errors import UserError
from ..evidence.images import Image
from ..evidence.records import Claim, Evidence, Plan, Verdict
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
from .prepared import PreparedEvaluation
from .progress import Progress
from .request import EvalRequest

LEVEL = 0.95  # confidence level of the bound

Found: TypeAlias = tuple[Claim, Verdict, Image]


@dataclass(frozen=True)
class SpotCheck:
    """The result of a spot check."""

    standing: int  # examples that stand under one threat or more, in the run
    chosen: tuple[int, ...]  # those of them that were sampled
    seed: int
    broken: dict[tuple[int, str], str] = field(default_factory=dict)  # the attack by example and threat
    open: frozenset[int] = frozenset()  # examples whose search was not finished
    left_out: tuple[str, ...] = ()  # attacks that cannot run here
    finished: bool = True
    found: tuple[Found, ...] = ()  # the images that broke them, also under threats that had broken them before

    @property
    def examples_broken(self) -> int:
        """The number of examples that were broken."""
        return len({example for example, _ in self.broken})

    @property
    def searched(self) -> int:
        """The number of examples that were searched to the end, or broken."""
        return self.examples_broken + len(set(self.chosen) - self.open - {example for example, _ in self.broken})

    @property
    def bound(self) -> float:
        """The upper bound of the share of standing examples that such a search breaks: Clopper-Pearson, one-sided."""
        return clopper_pearson(self.examples_broken, self.searched, 2 * LEVEL - 1)[1]


def standing(plan: Plan, evidence: Evidence) -> dict[int, tuple[str, ...]]:
    """The examples that stand under at least one planned threat, each with these threats, in plan order."""
    letters = {t.threat: outcomes(plan, evidence, t.threat) for t in plan.threats}
    under = {
        example: tuple(threat for threat, row in letters.items() if row[place] == Outcome.STANDING)
        for place, example in enumerate(plan.examples)
    }
    return {example: texts for example, texts in under.items() if texts}


def sample(examples: Sequence[int], n: int, seed: int) -> tuple[int, ...]:
    """A uniform sample of n examples in their order, or all where there are fewer."""
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
    """Searches a uniform sample of n standing examples again, or all of them where there are fewer.

    Every planned attack that can run here is tried under each threat under which they stand; an attack in a file runs
    only with the user's consent. Nothing is written. Ctrl-C ends it early. Raises UserError where nothing can be
    searched.
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
        with run.writing():  # under threats that broke them already, the examples are not searched
            run.adopt(Evidence(claims=tuple(c for c, _ in known), verdicts=tuple(v for _, v in known)), {}, [])
        request = EvalRequest(seed=seed, precision="float32")
        prepared = PreparedEvaluation.of(request, split, protocol, classifier, referee)
        search = prepared.evaluation(run, progress=progress)
        finished = True
        try:
            search.answer()
        except KeyboardInterrupt:
            finished = False
        recorded = run.evidence()
        broken, still_open = _found(search.plan, recorded, under)
        judged = {claim.id: (claim, verdict) for claim, verdict in recorded.judged()}
        found = tuple((*judged[number], image) for number, image in run.images(split.shape))
    return SpotCheck(len(under), examples, seed, broken, still_open, left_out, finished, found)


def _protocol(plan: Plan, classes: int, consent: Consent | None) -> tuple[Protocol, tuple[str, ...]]:
    """The plan's threats with the attacks that can run here, and the names of those that cannot."""
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


def _found(
    plan: Plan, evidence: Evidence, under: Mapping[int, Sequence[str]]
) -> tuple[dict[tuple[int, str], str], frozenset[int]]:
    """The attack that broke each example, by example and threat; and the examples that were not searched to the end."""
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
