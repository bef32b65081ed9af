"""Compaction: when slots are idle and no search waits for one, the batch goes on without most of them.

So idle slots cost nothing: neither the model nor the attack computes their rows.
"""

from collections.abc import Sequence

# Rows of the smallest batch. On a CPU, from four rows on, networks give every row the same bits in a batch of any size
# (tests/search/engine/test_compaction.py). So the results do not depend on the number of busy slots.
MIN_ROWS = 8
MULTIPLE = 4  # of the rows: for a size that is new to it, the library that computes convolutions prepares them first
MIN_SLOTS = 2  # with several threads torch adds up a lone row in another order than one among others
SAVING = 1 / 8  # of the slots, at least: copying the rows that go on takes time, too


def compacted(busy: Sequence[int], slots: int, queries_per_slot: int) -> list[int] | None:
    """The slots that the batch keeps: the busy ones, and a few idle ones as padding. None if that saves too little.

    `slots` is the number of slots of the batch; each of them queries `queries_per_slot` images.
    """
    multiple = max(1, MULTIPLE // queries_per_slot)
    wanted = max(len(busy), -(-MIN_ROWS // queries_per_slot), MIN_SLOTS)
    padded = -(-wanted // multiple) * multiple
    if padded > (1 - SAVING) * slots:
        return None
    idle = sorted(set(range(slots)) - set(busy))
    return sorted([*busy, *idle[: padded - len(busy)]])
