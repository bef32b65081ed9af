"""The second round: attacks that search only what the first round brought near to the boundary.

How near is a share: the smallest margin that a search left on an example, over the margin of the clean image. It is a
function of the example and the searches alone, so an example is searched or passed over in the same way in every
order, in every shard and after every interruption. Liu et al. 2022 (adaptive AutoAttack),
https://arxiv.org/abs/2203.05154, section 3.2, spend restarts on the examples with the smallest margins too; they rank
all examples, so that the choice depends on which others there are.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..evidence.records import Evidence, Nearest, PassedOver, Plan, PlannedAttack

Place = tuple[str, int]
"""A threat, as text, and the number of an example."""


@dataclass
class Nearness:
    """How near the searches of the first round have come so far, under the threats that have a second."""

    clean: dict[int, float] = field(default_factory=dict)  # margins before any attack, negative for correct answers
    attacks: dict[str, frozenset[str]] = field(default_factory=dict)  # of the first round, by threat
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
        """The examples that an attack of the second round passes over. What no search has measured counts as near."""
        limit = attack.near
        if limit is None:
            return []
        shares = ((example, self.left.get((threat, example), 0.0)) for example in examples)
        return [PassedOver(example, threat, attack.spec, left) for example, left in shares if left > limit]
