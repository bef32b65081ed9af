"""Rounds: in which order attacks run whose examples depend on what others, or their own sample, have done.

An attack with `sample` first searches a sample; the others follow if it broke one of these. An attack with `near` waits
for all others, and searches what they brought near to the boundary. How near is a share: the smallest margin
that a search left on an example, over the margin of the clean image. It is a function of the example and the searches
alone, so an example is searched or passed over in the same way in every order, in every shard and after every
interruption. Liu et al. 2022 (adaptive AutoAttack), https://arxiv.org/abs/2203.05154, section 3.2, spend restarts on
the examples with the smallest margins too; they rank all examples, so their choice depends on which others there are.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from ..evidence.records import MIN_SAMPLE, Evidence, Nearest, PassedOver, Plan, PlannedAttack
from ..evidence.store import RunFile
from ..masking.schedule import Step
from ..problem.noise import keyed, text_key, uniform
from ..results.outcomes import is_exhausted

BLOCK = 2**14  # examples among which a sample is chosen at a time

Place = tuple[str, int]
"""A threat, as text, and the number of an example."""


@dataclass
class Nearness:
    """How near searches have come so far, under the threats that have attacks of near examples."""

    clean: dict[int, float] = field(default_factory=dict)  # margins before any attack, negative for correct answers
    attacks: dict[str, frozenset[str]] = field(default_factory=dict)  # whose searches count, by threat
    left: dict[Place, float] = field(default_factory=dict)  # the smallest share of the clean margin
    _changed: set[Place] = field(default_factory=set)  # not yet written

    @classmethod
    def read(cls, plan: Plan, run: RunFile) -> "Nearness":
        """What a run file records about a plan; it is read only where an attack of near examples is planned."""
        near = any(a.near is not None for t in plan.threats for a in t.attacks)
        return cls.of(plan, run.evidence()) if near else cls()

    @classmethod
    def of(cls, plan: Plan, evidence: Evidence) -> "Nearness":
        """What evidence says about a plan."""
        return cls(
            clean={c.example: c.margin for c in evidence.clean},
            attacks={
                t.threat: frozenset(a.spec for a in t.attacks if a.near is None)
                for t in plan.threats
                if any(a.near is not None for a in t.attacks)
            },
            left={(n.threat, n.example): n.left for n in evidence.nearest},
        )

    def note(self, threat: str, attack: str, example: int, margin: float) -> None:
        """Take in the highest margin that a search without a find has queried; -inf where it queried no member."""
        clean = self.clean.get(example, 0.0)
        if attack not in self.attacks.get(threat, ()) or not clean < 0:
            return
        left = max(0.0, margin / clean)
        if left < self.left.get((threat, example), float("inf")):
            self.left[threat, example] = left
            self._changed.add((threat, example))

    def changed(self) -> list[Nearest]:
        """The records that have changed since the last call of `written`."""
        return [Nearest(example, threat, self.left[threat, example]) for threat, example in sorted(self._changed)]

    def written(self) -> None:
        """Forget what has changed. Call it when the transaction has succeeded."""
        self._changed.clear()

    def far(self, threat: str, attack: PlannedAttack, examples: Iterable[int]) -> list[PassedOver]:
        """The examples that an attack of near ones passes over. What no search has measured counts as near."""
        limit = attack.near
        if limit is None:
            return []
        shares = ((example, self.left.get((threat, example), 0.0)) for example in examples)
        return [PassedOver(example, threat, attack.spec, "near", left) for example, left in shares if left > limit]


Part = Literal["all", "sample", "near"]
"""Which examples an attack searches now. `all`: those that its plan does not leave to another part."""


@dataclass(frozen=True)
class Round:
    """Attacks that may run side by side. The next round begins when all their searches have ended."""

    steps: Sequence[Step]
    part: Part = "all"


def rounds(steps: Sequence[Step]) -> Iterator[Round]:
    """The rounds of the attacks of a protocol under all threats, which keep their order under each.

    What an attack breaks on its sample decides about the others, so it runs alone: were an image of another search to
    break the example first, the decision would depend on which was faster.
    """
    levels: dict[str, list[list[Step]]] = {}  # by threat; all but the first begin with an attack that has a sample
    for step in steps:
        of_threat = levels.setdefault(str(step[0].threat), [[]])
        if step[1].sample is not None:
            of_threat.append([])
        if step[1].near is None or step[1].sample is not None:
            of_threat[-1].append(step)
    for level in range(max(map(len, levels.values()), default=0)):
        together = [of_threat[level] for of_threat in levels.values() if level < len(of_threat)]
        if level:
            yield from (Round(attacks[:1], "sample") for attacks in together)
        yield Round([step for attacks in together for step in attacks])
    yield Round([step for step in steps if step[1].near is not None], "near")


def sample(examples: Sequence[int], attack: PlannedAttack) -> frozenset[int]:
    """The examples that an attack searches first: a larger sample holds every smaller one."""
    first = np.empty(0, np.int64)
    for begin in range(0, len(examples), BLOCK):  # the noise of all at once would take memory for each example
        some = np.concatenate([first, np.array(examples[begin : begin + BLOCK], np.int64)])
        noise = uniform(keyed(0, torch.from_numpy(some), text_key("sample"), restart=0), 0, 1).flatten().numpy()
        first = some[np.lexsort((some, noise))[: attack.sample]]
    return frozenset(first.tolist())


@dataclass(frozen=True)
class SampleResult:
    """What an attack has done on its sample, and whether it has broken any example at all."""

    broke: bool = False
    fruitless: int = 0  # examples of its sample that it searched to the end without a find

    @classmethod
    def of(cls, plan: Plan, run: RunFile, threat: str, attack: PlannedAttack) -> "SampleResult":
        """What a run file records about it."""
        if attack.sample is None:
            return cls()
        sampled = sample(plan.examples, attack)
        records = run.evidence_about(sampled, []).exhausted
        done = {s.example: s.done for s in records if (s.threat, s.attack) == (threat, attack.spec)}
        ended = (is_exhausted(attack, items) for items in done.values())
        return cls(run.last_broken(threat, attack.spec) is not None, sum(ended))


def passed_over(
    plan: Plan,
    threat: str,
    attack: PlannedAttack,
    part: Part,
    nearness: Nearness,
    ended: Set[int],
    result: SampleResult,
) -> list[PassedOver]:
    """The examples of a plan that an attack does not search now; it has ended on those in `ended` without a find."""
    others = [example for example in plan.examples if example not in ended]
    if part == "near":
        return nearness.far(threat, attack, others)
    if part == "sample" or attack.sample is None or result.broke or result.fruitless < MIN_SAMPLE:
        return []
    return [PassedOver(example, threat, attack.spec, "sample", float(result.fruitless)) for example in others]
