"""Shapes as types. B: rows of a batch.  *D: the shape of one input.  K: classes."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Inputs = Float[Tensor, "B *D"]
PerExample = Float[Tensor, "B"]
Labels = Int[Tensor, "B"]
Keys = Int[Tensor, "B"]
Logits = Float[Tensor, "B K"]
Mask = Bool[Tensor, "B"]


def per_example(v: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ..., 1) so that it broadcasts against `like`."""
    return v.view(-1, *[1] * (like.ndim - 1))


def per_candidate(v: Tensor, like: Tensor) -> Tensor:
    """Reshape (B, W) to (B, W, 1, ..., 1) so that it broadcasts against `like`, W candidates for each of B rows."""
    return v.view(*v.shape, *[1] * (like.ndim - 2))


def choose(mask: Mask, first: Tensor, second: Tensor) -> Tensor:
    """The rows of `first` where the mask holds, else those of `second`; it may be one of the two itself.

    On a CPU whole rows are copied: `torch.where` branches at every element, which takes several times as long.
    """
    if first is second:
        return first
    if mask.device.type != "cpu" or first.ndim == 1:
        return torch.where(per_example(mask, first), first, second)
    rows = mask.nonzero().squeeze(1)
    if rows.numel() in (0, mask.numel()):
        return first if rows.numel() else second
    return second.index_copy(0, rows, first.index_select(0, rows))
