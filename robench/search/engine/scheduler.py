"""The scheduler: which search runs next on which slot. It holds no tensors and does not import torch.

A slot is one place in the batch on the device. It holds one search at a time. Jobs that agree in their kind share the
slots; an attack that runs a loop of its own (a library attack) gets the device for itself.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable


class Item(NamedTuple):
    """One search: an example, the restart and the target class."""

    row: int  # of the split
    number: int  # among the items planned for the example
    restart: int
    target: int = -1  # -1: no target class


class Waiting:
    """The items of one job that have no slot yet. Items are generated on demand: millions of them take no memory."""

    def __init__(self, items: Iterable[Item], counts: Mapping[int, int]):
        self._new: Iterator[Item] = iter(items)
        self._first: deque[Item] = deque()  # put back: they come before the new ones
        self._last: deque[Item] = deque()  # added later: they come after the new ones
        self._counts = dict(counts)  # number of items, by row
        self._total = sum(self._counts.values())
        self._dropped: set[int] = set()

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Waiting":
        """A queue of the given items."""
        items = list(items)
        counts: dict[int, int] = {}
        for item in items:
            counts[item.row] = counts.get(item.row, 0) + 1
        return cls(items, counts)

    def take(self) -> Item | None:
        """Remove and return the next item whose example has not been dropped; None when no item is left."""
        while True:
            item = self._first.popleft() if self._first else next(self._new, None)
            if item is None and self._last:
                item = self._last.popleft()
            if item is None:
                return None
            if item.row not in self._dropped:
                self._count(item.row, -1)
                return item

    def add(self, item: Item) -> None:
        """Queue one more search, after all others."""
        if item.row not in self._dropped:
            self._count(item.row, 1)
            self._last.append(item)

    def put_back(self, item: Item) -> None:
        """Queue a search that was interrupted, before all others."""
        if item.row not in self._dropped:
            self._count(item.row, 1)
            self._first.appendleft(item)

    def drop(self, row: int) -> None:
        """Remove every item of an example, including items that would be added later."""
        self._dropped.add(row)
        self._total -= self._counts.pop(row, 0)

    def close(self) -> None:
        """Remove every item."""
        self._new, self._first, self._last = iter(()), deque(), deque()
        self._counts, self._total = {}, 0

    def rows(self) -> set[int]:
        """The examples that still have items in the queue."""
        return {row for row, count in self._counts.items() if count}

    def _count(self, row: int, more: int) -> None:
        self._counts[row] = self._counts.get(row, 0) + more
        self._total += more

    def __len__(self) -> int:
        return self._total


@runtime_checkable
class Schedulable(Protocol):
    """A job, as far as the scheduler needs to know it."""

    waiting: Waiting
    in_flight: int  # searches that are running
    steps: int  # made by all its searches together
    dropped: set[int]  # examples whose searches end early
    error: str  # what the attack raised; it makes no more searches then
    unfinished: set[int]  # examples that the error left unfinished

    @property
    def max_queries(self) -> int:
        """The number of steps of a search that finds nothing."""

    @property
    def queries_per_step(self) -> int:
        """The number of images that a search queries in one step."""

    @property
    def owns_loop(self) -> bool:
        """Whether the attack runs its own loop over a batch (a library attack)."""


J = TypeVar("J", bound=Schedulable)

Slots = Sequence[int] | None
"""The slots that go on, with new numbers in this order; None for all, with their numbers."""


def all_slots(job: Schedulable, busy: Sequence[int], slots: int) -> Slots:
    """The batch keeps its size."""
    return None


@dataclass
class SlotSearch(Generic[J]):
    """A search on a slot."""

    job: J
    item: Item
    steps: int = 0  # made so far

    @property
    def exhausted(self) -> bool:
        """Whether it has used up its budget."""
        return self.steps == self.job.max_queries


@dataclass(frozen=True)
class SlotPlan(Generic[J]):
    """The searches of the next steps."""

    slots: int  # of the batch
    rows: int  # images that one pass of the model may hold
    opens: bool  # whether this is a new batch: nothing on the slots goes on
    starts: Mapping[J, Sequence[tuple[int, Item]]]  # new searches and their slots, by job
    groups: Mapping[J, Sequence[int]]  # the slots that each active job holds
    retained: Slots = None  # of the slots of the last plan


@dataclass(frozen=True)
class LibraryBatch(Generic[J]):
    """The next searches of an attack that runs its own loop."""

    job: J
    items: Sequence[Item]


class Scheduler(Generic[J]):
    """Assigns searches to a fixed number of slots.

    A free slot goes to the first active job with a waiting search, then to the next job of the same kind, so that the
    batch stays full. `kind` says what jobs must agree in to share a batch. Jobs are taken from their iterable only
    when slots are free. If slots stay free, `fewer` decides which slots the batch keeps; None for all.
    """

    def __init__(
        self, rows: int, kind: Callable[[J], Hashable], fewer: Callable[[J, Sequence[int], int], Slots] = all_slots
    ):
        self.rows = rows  # images in one pass of the model
        self.finished = False  # whether the last call of `schedule` found no work
        self._kind = kind
        self._fewer = fewer  # of a job of this kind, the busy slots, and the number of slots
        self._upcoming: Iterator[J] = iter(())
        self._next: J | None = None  # taken from `_upcoming`, not yet active
        self._active: list[J] = []
        self._slots: list[SlotSearch[J] | None] = []

    def add(self, jobs: Iterable[J]) -> None:
        """Queue more jobs."""
        self._upcoming = chain(self._upcoming, jobs)
        self.finished = False

    def schedule(self) -> SlotPlan[J] | LibraryBatch[J] | None:
        """Assign waiting searches to free slots; None when no work is left."""
        while True:
            opens = not self._active
            if opens:
                job = self._peek()
                if job is None:
                    self.finished = True
                    return None
                self._next = None
                if job.owns_loop:
                    if items := self._library_items(job):
                        self._next = job  # it stays next until all its items are taken
                        job.in_flight = len(items)
                        return LibraryBatch(job, items)
                    continue
                self._active = [job]
                self._slots = [None] * max(1, self.rows // job.queries_per_step)
            starts = self._assign()
            self._active = [job for job in self._active if job.in_flight]
            if self._active:
                retained = self._compact(starts)
                return SlotPlan(len(self._slots), self.rows, opens, starts, self._groups(), None if opens else retained)

    def running(self) -> list[tuple[int, SlotSearch[J]]]:
        """The slots with a search, and that search."""
        return [(slot, search) for slot, search in enumerate(self._slots) if search is not None]

    def advance(self, steps: int) -> None:
        """Count steps of every running search, up to its budget."""
        for _, search in self.running():
            more = min(steps, search.job.max_queries - search.steps)
            search.steps += more
            search.job.steps += more

    def release(self, slot: int) -> SlotSearch[J]:
        """Free a slot. Returns its search."""
        search, self._slots[slot] = self._slots[slot], None
        assert search is not None, f"slot {slot} is already free"
        search.job.in_flight -= 1
        return search

    def release_dropped(self) -> list[SlotSearch[J]]:
        """Free the slots of dropped examples. Returns their searches."""
        return [self.release(slot) for slot, search in self.running() if search.item.row in search.job.dropped]

    def remove_failed(self) -> None:
        """Remove the jobs with an error, and note the examples that they leave unfinished."""
        for job in [job for job in self._active if job.error]:
            _close(job, [self.release(slot).item for slot, search in self.running() if search.job is job])
            self._active.remove(job)

    def finish(self, batch: LibraryBatch[J], done: Iterable[Item]) -> None:
        """Note that a library batch is over, and queue those of its searches that are not done again, in their order.

        If its job has an error, the job makes no more searches.
        """
        batch.job.in_flight = 0
        if batch.job.error:
            _close(batch.job, batch.items)
            self._next = None
            return
        over = set(done)
        for item in reversed(batch.items):
            if item not in over:
                batch.job.waiting.put_back(item)

    def halve(self) -> None:
        """Continue with half the rows after a memory shortage. Searches on slots are queued again, in their order.

        Their noise belongs to the search and not to the slot, so they find the same again.
        """
        assert self.rows > 1, "a single row cannot be halved"
        self.rows //= 2
        for slot, _ in reversed(self.running()):
            search = self.release(slot)
            search.job.waiting.put_back(search.item)
        again = [*self._active, *([] if self._next is None else [self._next])]
        self._upcoming, self._next, self._active, self._slots = chain(again, self._upcoming), None, [], []

    def _assign(self) -> dict[J, list[tuple[int, Item]]]:
        """Give every free slot a waiting search, as long as there are any."""
        starts: dict[J, list[tuple[int, Item]]] = {}
        for slot, search in enumerate(self._slots):
            if search is not None:
                continue
            if (taken := self._take()) is None:
                break
            job, item = taken
            self._slots[slot] = SlotSearch(job, item)
            job.in_flight += 1
            starts.setdefault(job, []).append((slot, item))
        return starts

    def _compact(self, starts: dict[J, list[tuple[int, Item]]]) -> Slots:
        """Remove idle slots, and renumber the others, in `starts` too. No search waits for a slot that is idle now."""
        retained = self._fewer(self._active[0], [slot for slot, _ in self.running()], len(self._slots))
        if retained is not None:
            self._slots = [self._slots[slot] for slot in retained]
            new = {slot: number for number, slot in enumerate(retained)}
            starts.update({job: [(new[slot], item) for slot, item in placed] for job, placed in starts.items()})
        return retained

    def _take(self) -> tuple[J, Item] | None:
        """The next search of the active jobs, else of further jobs of their kind."""
        for job in self._active:
            if (item := job.waiting.take()) is not None:
                return job, item
        while (following := self._peek()) is not None and self._can_join(following):
            self._active.append(following)
            self._next = None
            if (item := following.waiting.take()) is not None:
                return following, item
        return None

    def _can_join(self, job: J) -> bool:
        return not job.owns_loop and self._kind(job) == self._kind(self._active[0])

    def _library_items(self, job: J) -> list[Item]:
        """The next searches from different images: the rows of a library's batch are identified by their images."""
        items: list[Item] = []
        rows: set[int] = set()
        while len(items) < self.rows and (item := job.waiting.take()) is not None:
            if item.row in rows:
                job.waiting.put_back(item)
                break
            items.append(item)
            rows.add(item.row)
        return items

    def _groups(self) -> dict[J, list[int]]:
        groups: dict[J, list[int]] = {job: [] for job in self._active}
        for slot, search in self.running():
            groups[search.job].append(slot)
        return groups

    def _peek(self) -> J | None:
        if self._next is None:
            self._next = next(self._upcoming, None)
        return self._next


def _close(job: Schedulable, started: Iterable[Item]) -> None:
    """Note which examples a failed job leaves unfinished, and remove its waiting searches."""
    job.unfinished = (job.waiting.rows() | {item.row for item in started}) - job.dropped
    job.waiting.close()
