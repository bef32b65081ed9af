"""Operators that reduce axes: sums, means, maxima, and softmax."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layer import Layer, Maker, axis_of, compute, integers
from ..node import Node

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.mean(dim=axes, keepdim=keep)


def _total(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(dim=axes, keepdim=keep)


def _largest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.amax(dim=axes, keepdim=keep)


def _smallest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.amin(dim=axes, keepdim=keep)


def product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The product along axes, one after the other."""
    for axis in sorted(axes, reverse=True):
        x = x.prod(dim=axis, keepdim=keep)
    return x


def _absolute(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.abs().sum(dim=axes, keepdim=keep)


def _squares(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.square().sum(dim=axes, keepdim=keep)


def _length(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _squares(x, axes, keep).sqrt()


def _log_total(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _total(x, axes, keep).log()


def _log_total_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.logsumexp(dim=axes, keepdim=keep)


REDUCTIONS: Mapping[str, tuple[Reduction, int]] = {
    "ReduceL1": (_absolute, 18),
    "ReduceL2": (_length, 18),
    "ReduceLogSum": (_log_total, 18),
    "ReduceLogSumExp": (_log_total_exp, 18),
    "ReduceMax": (_largest, 18),
    "ReduceMean": (_mean, 18),
    "ReduceMin": (_smallest, 18),
    "ReduceProd": (product, 18),
    "ReduceSum": (_total, 13),
    "ReduceSumSquare": (_squares, 18),
}
"""Each with the opset from which on its axes are an input, not an attribute."""


def reduce_axes(
    x: Tensor, axes: Tensor | None = None, *, reduction: Reduction, attribute: tuple[int, ...], keep: bool, none: bool
) -> Tensor:
    """The reduction along these axes. If there are none: of the whole tensor, or of each number with `none`."""
    places = [axis_of(axis, x.ndim) for axis in (attribute if axes is None else integers(axes))]
    if not places:
        if none:
            return reduction(x.unsqueeze(-1), [-1], False)
        places = list(range(x.ndim))
    return reduction(x, places, keep) if x.ndim else x


def _reduce(reduction: Reduction, since: int) -> Maker:
    def make(node: Node) -> Layer:
        keep, none = bool(node.integer("keepdims", 1)), False
        attribute: tuple[int, ...] = ()
        if node.opset >= since:
            none = bool(node.integer("noop_with_empty_axes", 0))
        else:
            attribute = node.integers("axes")
        return compute(reduce_axes, numbers=[1], reduction=reduction, attribute=attribute, keep=keep, none=none)

    return make


def _softmax_along(x: Tensor, *, axis: int, log: bool) -> Tensor:
    return F.log_softmax(x, axis) if log else F.softmax(x, axis)


def softmax_of_rows(x: Tensor, *, axis: int, log: bool) -> Tensor:
    """Softmax before opset 13: over all axes from this one on."""
    return _softmax_along(x.flatten(axis_of(axis, x.ndim)), axis=-1, log=log).reshape(x.shape)


def _softmax(*, log: bool) -> Maker:
    def make(node: Node) -> Layer:
        if node.opset < 13:
            return compute(softmax_of_rows, axis=node.integer("axis", 1), log=log)
        return compute(_softmax_along, axis=node.integer("axis", -1), log=log)

    return make


def place_of(x: Tensor, *, axis: int, keep: bool, largest: bool, last: bool) -> Tensor:
    """The index of the largest or smallest number along an axis: the first of equal ones, or the last."""
    size = x.shape[axis]
    ordered = x.flip(axis) if last else x
    found = ordered.argmax(axis, keepdim=keep) if largest else ordered.argmin(axis, keepdim=keep)
    return size - 1 - found if last else found


def _place(*, largest: bool) -> Maker:
    def make(node: Node) -> Layer:
        keep, last = bool(node.integer("keepdims", 1)), bool(node.integer("select_last_index", 0))
        return compute(place_of, axis=node.integer("axis", 0), keep=keep, largest=largest, last=last)

    return make


def normalised(x: Tensor, *, axis: int, p: int) -> Tensor:
    """The numbers divided by their l1 or l2 norm along an axis; 0 stays 0."""
    norm = x.norm(p=p, dim=axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


def _lp_norm(node: Node) -> Layer:
    p = node.integer("p", 2)
    if p not in (1, 2):
        raise node.refused(f"has p={p}")
    return compute(normalised, axis=node.integer("axis", -1), p=p)


REDUCING: Mapping[str, Maker] = {
    **{name: _reduce(reduction, since) for name, (reduction, since) in REDUCTIONS.items()},
    "ArgMax": _place(largest=True),
    "ArgMin": _place(largest=False),
    "LogSoftmax": _softmax(log=True),
    "LpNormalization": _lp_norm,
    "Softmax": _softmax(log=False),
}
