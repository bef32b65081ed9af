"""Towards the end of a run few lanes are busy: then the model is asked about those, and idle lanes cost nothing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Rows of the smallest batch. On a CPU, from four rows on, networks give every row the same bits in a batch of any
# size (tests/search/engine/test_compaction.py), so that what is found does not depend on how many lanes happen to be busy.
MIN = 8


def compacted(busy: Sequence[int], slots: int, width: int) -> list[int] | None:
    """The busy ones of so many lanes of `width` rows each, filled up with idle ones to a power of two.

    None where that would not halve the batch.
    """
    wanted = max(len(busy), -(-MIN // width), 1)
    filled = 1 << (wanted - 1).bit_length()
    if 2 * filled > slots:
        return None
    idle = sorted(set(range(slots)) - set(busy))
    return sorted([*busy, *idle[: filled - len(busy)]])


def only(model: Callable[[Tensor], Tensor], slots: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The model asked about these lanes alone; about the others it answers 0, with a gradient of 0."""
    if slots is None:
        return model

    def ask(x: Tensor) -> Tensor:
        told = model(x[slots])
        return told.new_zeros(len(x), *told.shape[1:]).index_copy(0, slots, told)

    return ask


def rows_of(model: Callable[[Tensor], Tensor], most: int) -> Callable[[Tensor], Tensor]:
    """The model asked about several images of every lane, at most so many at once."""

    def ask(x: Tensor) -> Tensor:
        logits = torch.cat([model(part) for part in torch.split(x.flatten(0, 1), most)])
        return logits.view(*x.shape[:2], -1)

    return ask
