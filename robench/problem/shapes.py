"""Shapes as types. B: rows of a batch.  *D: the shape of one input.  K: classes."""

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
