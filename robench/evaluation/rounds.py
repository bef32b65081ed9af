"""Rounds: in which order attacks run whose examples depend on what others, or their own sample, have done.

An attack with `sample` first searches a sample; the rest follows if it broke one of these. An attack with `near` comes
last, and searches what the searches before it brought near to the boundary. How near is a share: the smallest margin
that a search left on an example, over the margin of the clean image. It is a function of the example and the searches
alone, so an example is searched or passed over in the same way in every order, in every shard and after every
interruption. Liu et al. 2022 (adaptive AutoAttack), https://arxiv.org/abs/2203.05154, section 3.2, spend restarts on
the examples with the smallest margins too; they rank all examples, so their choice depends on which others there are.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field

import torch

from ..evidence.records import MIN_SAMPLE, Evidence, Nearest, PassedOver, Plan, PlannedAttack
from ..masking.schedule import Step
from ..problem.noise import keyed, text_key, uniform

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
    def of(cls, plan: Plan, evidence: Evidence) -> "Nearness":
        """What a run file records about a plan."""
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


@dataclass(frozen=True)
class Round:
    """Attacks that may run side by side. The next round begins when all their searches have ended."""

    steps: Sequence[Step]
    sampled: bool = False  # a single attack on its sample


def rounds(steps: Sequence[Step]) -> Iterator[Round]:
    """The rounds of the attacks of a protocol under all threats, which keep their order under each.

    What an attack breaks on its sample decides about the rest, so it runs alone: were an image of another search to
    break the example first, the decision would depend on which was faster.
    """
    parts: dict[str, list[list[Step]]] = {}  # by threat; all but the first begin with an attack that has a sample
    for step in steps:
        of_threat = parts.setdefault(str(step[0].threat), [[]])
        if step[1].sample is not None:
            of_threat.append([])
        if step[1].near is None:
            of_threat[-1].append(step)
    for level in range(max(map(len, parts.values()), default=0)):
        together = [of_threat[level] for of_threat in parts.values() if level < len(of_threat)]
        if level:
            yield from (Round(part[:1], sampled=True) for part in together)
        yield Round([step for part in together for step in part])
    yield Round([step for step in steps if step[1].near is not None])


def sample(examples: Collection[int], attack: PlannedAttack) -> frozenset[int]:
    """The examples that an attack searches first. Each is drawn for itself, whatever others there are."""
    assert attack.sample is not None, "only an attack with a sample has one"
    numbers = sorted(examples)
    draws = uniform(keyed(0, torch.tensor(numbers), text_key("sample"), restart=0), 0, 1).flatten().tolist()
    return frozenset(number for number, draw in zip(numbers, draws, strict=True) if draw < attack.sample)


def sampled_in_vain(
    threat: str, attack: PlannedAttack, drawn: frozenset[int], exhausted: Set[int], broke: bool, examples: Iterable[int]
) -> list[PassedOver]:
    """The examples that an attack passes over, as it broke none of its sample.

    `drawn` is the sample, `exhausted` the examples on which it has ended without a find. Where too few stood in the
    sample to conclude anything, all examples are searched.
    """
    in_vain = len(drawn & exhausted)
    if broke or in_vain < MIN_SAMPLE:
        return []
    return [PassedOver(e, threat, attack.spec, "sample", float(in_vain)) for e in examples if e not in exhausted]
