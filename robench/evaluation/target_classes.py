"""The target classes of an attack on each example, worked out when its first search begins."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import islice

from ..evidence.referee import Referee
from ..problem.memory import out_of_memory
from ..problem.shapes import Inputs, Labels, Logits
from ..problem.split import Split
from ..problem.threats import Ball, ThreatModel
from ..search import targets
from ..search.attack import AnyAttack

NO_TARGET = (-1,)


class TargetClasses:
    """The classes that the searches of one attack aim at, by row of the split.

    They depend on the example alone: they come from the referee's weights, in batches of one size. So every session
    counts the same searches. A first-order order falls back on the logits for a stochastic model, where one gradient is
    noise, and for an image at which the model has no gradient: there the attack itself reports the error.
    """

    def __init__(
        self, referee: Referee, split: Split, threat: ThreatModel, attack: AnyAttack, rows: Sequence[int]
    ) -> None:
        self._referee, self._split, self._threat, self._attack, self._rows = referee, split, threat, attack, rows
        self._place = {row: place for place, row in enumerate(rows)}
        self._known: dict[int, list[int]] = {}
        self._cost: Counter[int] = Counter()

    def of(self, row: int, dropped: Collection[int] = ()) -> Sequence[int]:
        """The target classes of an example, in order; -1 for none. The examples that follow it fill the batch."""
        if not self._attack.targets:
            return NO_TARGET
        if row not in self._known:
            following = self._rows[self._place[row] + 1 :]
            new = (other for other in following if other not in self._known and other not in dropped)
            rows = [row, *islice(new, targets.ROWS - 1)]
            self._known |= dict(zip(rows, self._compute(rows), strict=True))
        return self._known[row]

    def take_cost(self) -> Counter[int]:
        """The gradients that the order has cost since the last call, by row."""
        cost, self._cost = self._cost, Counter()
        return cost

    def _compute(self, rows: Sequence[int]) -> list[list[int]]:
        x, y = self._split.x[list(rows)], self._split.y[list(rows)]
        logits = self._referee.predict(x, y).logits
        if not targets.is_first_order(self._attack) or self._referee.passes > 1:
            return targets.by_logits(logits, y, self._attack.targets).tolist()
        for row in rows:
            self._cost[row] += targets.gradients(self._attack, logits.shape[1])
        return self._first_order(x, y, logits)

    def _first_order(self, x: Inputs, y: Labels, logits: Logits) -> list[list[int]]:
        assert isinstance(self._threat, Ball), "a protocol refuses other threats"
        n, model = self._attack.targets, self._referee.classifier
        try:
            return targets.by_first_order(model, self._threat, x, y, logits, n).tolist()
        except Exception as error:  # the model's own code may raise anything
            if out_of_memory(error):
                raise
            if len(x) == 1:
                return targets.by_logits(logits, y, n).tolist()
            rows = (slice(row, row + 1) for row in range(len(x)))
            return [order for row in rows for order in self._first_order(x[row], y[row], logits[row])]
