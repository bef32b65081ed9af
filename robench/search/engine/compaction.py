"""Compaction: when few slots are busy, the model computes those alone, and idle slots cost nothing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Rows of the smallest batch. On a CPU, from four rows on, networks give every row the same bits in a batch of any size
# (tests/search/engine/test_compaction.py). So the results do not depend on the number of busy slots.
MIN_ROWS = 8


def compacted(busy: Sequence[int], slots: int, queries_per_slot: int) -> list[int] | None:
    """The busy slots, padded with idle ones to a power of two; None if that would not halve the batch.

    `slots` is the number of slots of the batch; each of them queries `queries_per_slot` images.
    """
    wanted = max(len(busy), -(-MIN_ROWS // queries_per_slot), 1)
    padded = 1 << (wanted - 1).bit_length()
    if 2 * padded > slots:
        return None
    idle = sorted(set(range(slots)) - set(busy))
    return sorted([*busy, *idle[: padded - len(busy)]])


def only(model: Callable[[Tensor], Tensor], slots: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The model restricted to these slots: all others get zeros, with a gradient of 0. None keeps every slot."""
    if slots is None:
        return model

    def restricted(x: Tensor) -> Tensor:
        answers = model(x[slots])
        return answers.new_zeros(len(x), *answers.shape[1:]).index_copy(0, slots, answers)

    return restricted


def in_chunks(model: Callable[[Tensor], Tensor], rows: int) -> Callable[[Tensor], Tensor]:
    """The model for several images per slot, (L, W, *D) to (L, W, K), in passes of at most `rows` images."""

    def chunked(x: Tensor) -> Tensor:
        logits = torch.cat([model(part) for part in torch.split(x.flatten(0, 1), rows)])
        return logits.view(*x.shape[:2], -1)

    return chunked
