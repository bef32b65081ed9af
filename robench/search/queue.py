"""Which search goes on the device next. No tensors here."""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple


class Item(NamedTuple):
    """One search: an example, the restart, the class aimed at."""

    row: int  # of the split
    number: int  # among the items planned for the example
    draw: int
    target: int = -1  # -1 aims at no class


class Queue:
    """A waiting line and a fixed number of lanes."""

    def __init__(self, items: Iterable[Item], lanes: int):
        self.waiting = deque(items)
        self.lanes: list[Item | None] = [None] * lanes
        self.taken = [0] * lanes  # queries the item on each lane has made
        self.asked = 0  # queries of all items so far
        self.dropped: set[int] = set()

    def fill(self) -> list[tuple[int, Item]]:
        """Give every free lane a waiting item. Returns the new (lane, item) pairs."""
        seated = []
        for lane, item in enumerate(self.lanes):
            if item is None and (newcomer := self._next()) is not None:
                self.lanes[lane], self.taken[lane] = newcomer, 0
                seated.append((lane, newcomer))
        return seated

    def release(self, lane: int) -> Item:
        """Free a lane. Returns the item that was on it."""
        item, self.lanes[lane] = self.lanes[lane], None
        assert item is not None, f"lane {lane} was already free"
        return item

    def drop(self, row: int) -> list[int]:
        """Forget every item of an example: those waiting, and those on lanes, which are freed and returned."""
        self.dropped.add(row)
        lanes = [lane for lane, item in enumerate(self.lanes) if item is not None and item.row == row]
        for lane in lanes:
            self.release(lane)
        return lanes

    def count(self, queries: int, most: int) -> None:
        """Every busy lane has made so many more queries, up to the most that an item makes."""
        for lane, item in enumerate(self.lanes):
            if item is not None:
                more = min(queries, most - self.taken[lane])
                self.taken[lane] += more
                self.asked += more

    def left(self, most: int) -> int:
        """The queries still to be made, if no further example breaks."""
        return len(self) * most - sum(taken for taken, item in zip(self.taken, self.lanes, strict=True) if item)

    def busy(self) -> list[tuple[int, Item]]:
        """The (lane, item) pairs in flight."""
        return [(lane, item) for lane, item in enumerate(self.lanes) if item is not None]

    def __len__(self) -> int:
        """Items waiting or in flight, at most: those of dropped examples are forgotten as their turn comes."""
        while self.waiting and self.waiting[0].row in self.dropped:
            self.waiting.popleft()
        return len(self.waiting) + len(self.busy())

    def _next(self) -> Item | None:
        while self.waiting:
            item = self.waiting.popleft()
            if item.row not in self.dropped:
                return item
        return None
