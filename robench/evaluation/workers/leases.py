"""The queue of examples in a round, and which worker holds which. Does not import torch."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field

import numpy as np
from numpy.typing import NDArray

BATCHES = 64  # of a lease, at most: the driver reads the evidence about its examples
LEASES = 2  # for each worker at the minimum, where there are so many examples: the end of each leaves slots idle


@dataclass
class LeaseQueue:
    """The examples of one round: waiting, leased to a worker, or done. A lease is held by one worker at a time."""

    examples: InitVar[Sequence[int] | NDArray[np.int32]]  # their numbers
    workers: int
    rows: int  # of the batch of one worker: a lease has as many examples, if there are enough
    first: int = 0  # number of the first lease: no two rounds share one
    _held: dict[int, tuple[int, NDArray[np.int32]]] = field(default_factory=dict)  # worker and examples, by lease
    total: int = 0  # examples of the round
    waiting: NDArray[np.int32] = field(init=False)  # four bytes each; leases are taken from the front

    def __post_init__(self, examples: Sequence[int] | NDArray[np.int32]) -> None:
        self.waiting = np.asarray(examples, np.int32)
        self.total = len(self.waiting)
        self.next = self.first  # number of the next lease

    @property
    def done(self) -> bool:
        """Whether every example has been searched."""
        return not len(self.waiting) and not self._held

    def take(self, worker: int) -> tuple[int, tuple[int, ...]] | None:
        """The number and the examples of a new lease; None where no example waits.

        Leases become smaller towards the end, as the last of them decides when the round ends: down to half a batch
        where there are whole ones for all workers. A batch of few rows takes longer for each example.
        """
        if not len(self.waiting):
            return None
        minimum = min(self.rows, -(-self.total // (LEASES * self.workers)))
        if minimum == self.rows and self.workers > 1 and len(self.waiting) <= self.workers * self.rows:
            minimum = -(-self.rows // 2)
        size = min(max(minimum, -(-len(self.waiting) // (2 * self.workers))), BATCHES * self.rows)
        examples, self.waiting = self.waiting[:size], self.waiting[size:]  # views: half of all may be leased at once
        number, self.next = self.next, self.next + 1
        self._held[number] = worker, examples
        return number, tuple(examples.tolist())

    def holds(self, worker: int, lease: int) -> bool:
        """Whether this worker holds the lease. What others send about it comes too late, and is left out."""
        return lease in self._held and self._held[lease][0] == worker

    def finish(self, lease: int) -> None:
        """End a lease whose examples have been searched."""
        del self._held[lease]

    def give_back(self, worker: int) -> Sequence[int]:
        """Put the examples of a lost worker back into the queue, before all others. Returns them."""
        leases = [lease for lease, (holder, _) in self._held.items() if holder == worker]
        examples = np.concatenate([np.empty(0, np.int32), *(self._held.pop(lease)[1] for lease in leases)])
        self.waiting = np.concatenate([examples, self.waiting])
        found: list[int] = examples.tolist()
        return found
