"""Whose turn it is: the searches that wait, and the lanes they sit on. No tensors here."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

J = TypeVar("J")


class Item(NamedTuple):
    """One search: an example, the restart, the class aimed at."""

    row: int  # of the split
    number: int  # among the items planned for the example
    restart: int
    target: int = -1  # -1 aims at no class


class Waiting:
    """The items of one job that no lane has taken. Each is made as its turn comes: millions of them take no memory."""

    def __init__(self, items: Iterable[Item], counts: Mapping[int, int]):
        self._fresh: Iterator[Item] = iter(items)
        self._first: deque[Item] = deque()  # put back, and next to go
        self._last: deque[Item] = deque()  # added since
        self._counts = dict(counts)  # of items, by row
        self._total = sum(self._counts.values())
        self._dropped: set[int] = set()

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Waiting":
        """A line of items that are there already."""
        items = list(items)
        counts: dict[int, int] = {}
        for item in items:
            counts[item.row] = counts.get(item.row, 0) + 1
        return cls(items, counts)

    def take(self) -> Item | None:
        """The next item of an example that has not been dropped."""
        while True:
            item = self._first.popleft() if self._first else next(self._fresh, None)
            if item is None and self._last:
                item = self._last.popleft()
            if item is None:
                return None
            if item.row not in self._dropped:
                self._count(item.row, -1)
                return item

    def add(self, item: Item) -> None:
        """One more search, after all others."""
        if item.row not in self._dropped:
            self._count(item.row, 1)
            self._last.append(item)

    def put_back(self, item: Item) -> None:
        """A search that was begun in vain, to be made before all others."""
        if item.row not in self._dropped:
            self._count(item.row, 1)
            self._first.appendleft(item)

    def drop(self, row: int) -> None:
        """Forget every item of an example, those to come included."""
        self._dropped.add(row)
        self._total -= self._counts.pop(row, 0)

    def close(self) -> None:
        """Forget every item."""
        self._fresh, self._first, self._last = iter(()), deque(), deque()
        self._counts, self._total = {}, 0

    def rows(self) -> set[int]:
        """The examples with items in the line."""
        return {row for row, count in self._counts.items() if count}

    def _count(self, row: int, more: int) -> None:
        self._counts[row] = self._counts.get(row, 0) + more
        self._total += more

    def __len__(self) -> int:
        return self._total


@dataclass
class SlotSearch(Generic[J]):
    """A search on a lane."""

    job: J
    item: Item
    taken: int = 0  # steps it has made


class Slots(Generic[J]):
    """A fixed number of lanes, and who sits on them."""

    def __init__(self, slots: int):
        self._slots: list[SlotSearch[J] | None] = [None] * slots

    def free(self) -> list[int]:
        """The lanes nobody sits on."""
        return [slot for slot, search in enumerate(self._slots) if search is None]

    def busy(self) -> list[tuple[int, SlotSearch[J]]]:
        """The lanes somebody sits on, and who."""
        return [(slot, search) for slot, search in enumerate(self._slots) if search is not None]

    def of(self, job: J) -> list[tuple[int, SlotSearch[J]]]:
        """The lanes of one job."""
        return [(slot, search) for slot, search in self.busy() if search.job is job]

    def sit(self, slot: int, job: J, item: Item) -> None:
        """Give a free lane to a search."""
        assert self._slots[slot] is None, f"lane {slot} is taken"
        self._slots[slot] = SlotSearch(job, item)

    def release(self, slot: int) -> SlotSearch[J]:
        """Free a lane. Returns who sat there."""
        search, self._slots[slot] = self._slots[slot], None
        assert search is not None, f"lane {slot} was already free"
        return search

    def __len__(self) -> int:
        return len(self._slots)
