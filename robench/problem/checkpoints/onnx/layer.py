"""What a node becomes: a module, and how it takes the node's inputs."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from .node import Node

LARGEST = 2**28  # numbers in all values that a graph holds at one time, for two images
BATCH = 2**30  # the same for a graph that the file writes for a larger number of images
LISTED = 4096  # the longest list of sizes, axes or indices

Outputs = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Layer:
    """A module for a node. Inputs beyond `takes` are in the module; those at `numbers` are sizes, axes or indices.

    Numbers stay on the CPU and do not depend on the images.
    """

    module: nn.Module
    takes: int | None = None  # None for all
    numbers: frozenset[int] = frozenset()


Maker = Callable[[Node], Layer]


class Compute(nn.Module):
    """A module without weights that computes a function of its inputs."""

    def __init__(self, function: Callable[..., Outputs]):
        super().__init__()
        self.function = function

    def forward(self, *given: Tensor | None) -> Outputs:
        return self.function(*given)


def compute(function: Callable[..., Outputs], *, numbers: Collection[int] = (), **settings: Any) -> Layer:
    """A layer that computes a function with these settings."""
    return Layer(Compute(partial(function, **settings) if settings else function), numbers=frozenset(numbers))


def plain(function: Callable[..., Outputs], **settings: Any) -> Maker:
    """The maker of a layer that computes a function, for an operator without attributes."""

    def make(node: Node) -> Layer:
        return compute(function, **settings)

    return make


def integers(values: Tensor) -> list[int]:
    """The numbers in a short list of sizes, axes or indices. Raises ValueError for a longer one."""
    if values.numel() > LISTED or values.is_floating_point() or values.ndim > 1:
        raise ValueError(f"a list of sizes or axes of {values.numel()} numbers, {values.dtype}")
    return [int(value) for value in values.reshape(-1).tolist()]


def refuse_large(sizes: Iterable[int]) -> None:
    """Raises ValueError for the shape of a tensor that is too large, or no shape."""
    sizes = list(sizes)
    if min(sizes, default=1) < 0 or prod(sizes) > LARGEST:
        raise ValueError(f"a tensor of {'x'.join(map(str, sizes))}")


def axis_of(axis: int, dimensions: int) -> int:
    """The axis, counted from the front. Raises ValueError if there is none."""
    if not -dimensions <= axis < max(dimensions, 1):
        raise ValueError(f"axis {axis} of {dimensions}")
    return axis % max(dimensions, 1)


def like(value: Tensor, other: Tensor) -> Tensor:
    """A number of a constant input, with the type of another tensor."""
    return value.to(other.dtype) if value.dtype != other.dtype else value


def whole_numbers(*values: Tensor) -> bool:
    """Whether all values are whole numbers."""
    return all(not v.is_floating_point() and v.dtype != torch.bool for v in values)
