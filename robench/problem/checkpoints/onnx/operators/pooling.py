"""Operators that pool neighbouring pixels, or all of them."""

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layer import Layer, Maker, compute, plain
from ..node import Node
from .padding import Padding, padded, padding_of

MAXIMUM: tuple[Any, ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
AVERAGE: tuple[Any, ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def max_pool(x: Tensor, *, padding: Padding, ceil: bool) -> Tensor:
    """The largest number in each window."""
    pool = MAXIMUM[len(padding.kernel) - 1]
    usual = padding.symmetric()
    if usual is None or any(2 * pixels > kernel for pixels, kernel in zip(usual, padding.kernel, strict=True)):
        x, usual = padded(x, padding.sides(x.shape[2:]), -inf), (0,) * len(padding.kernel)
    result: Tensor = pool(x, padding.kernel, padding.strides, usual, padding.dilations, ceil)
    return result


def average_pool(x: Tensor, *, padding: Padding, ceil: bool, count_padding: bool) -> Tensor:
    """The mean of each window, of which padding is a part or not."""
    pool = AVERAGE[len(padding.kernel) - 1]
    usual = padding.symmetric()
    if usual is not None and all(2 * p <= kernel for p, kernel in zip(usual, padding.kernel, strict=True)):
        result: Tensor = pool(x, padding.kernel, padding.strides, usual, ceil, count_padding)
        return result
    sides = padding.sides(x.shape[2:])
    mean: Tensor = pool(padded(x, sides, 0.0), padding.kernel, padding.strides, 0, ceil)
    if count_padding:
        return mean
    share: Tensor = pool(padded(torch.ones_like(x[:1, :1]), sides, 0.0), padding.kernel, padding.strides, 0, ceil)
    return mean / share


def _global_average(x: Tensor) -> Tensor:
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


def _global_maximum(x: Tensor) -> Tensor:
    return x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)


def _windows(node: Node) -> tuple[Padding, bool]:
    """The windows of a pooling node, and whether one that the image ends in counts."""
    kernel = node.integers("kernel_shape")
    if not 1 <= len(kernel) <= 3 or min(kernel) < 1:
        raise node.refused(f"has kernel_shape={list(kernel)}")
    strides, dilations = (node.integers(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    if not len(strides) == len(dilations) == len(kernel) or min(*strides, *dilations) < 1:
        raise node.refused(f"has strides of {list(strides)} and dilations of {list(dilations)}")
    return padding_of(node, kernel, strides, dilations), bool(node.integer("ceil_mode", 0))


def _max_pool(node: Node) -> Layer:
    node.integer("storage_order", 0)  # of the second output
    padding, ceil = _windows(node)
    return compute(max_pool, padding=padding, ceil=ceil)


def _average_pool(node: Node) -> Layer:
    padding, ceil = _windows(node)
    if set(padding.dilations) != {1}:
        raise node.refused("has dilations")
    return compute(average_pool, padding=padding, ceil=ceil, count_padding=bool(node.integer("count_include_pad", 0)))


POOLING: Mapping[str, Maker] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": plain(_global_average),
    "GlobalMaxPool": plain(_global_maximum),
    "MaxPool": _max_pool,
}
