"""Operators that read or write entries by their indices, or sort them."""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from ..layer import Layer, Maker, axis_of, compute, integers, refuse_large
from ..node import Node

REDUCTIONS = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}
"""The names that torch has for what happens to entries that are written several times."""


def wrapped(indices: Tensor, size: int, device: torch.device) -> Tensor:
    """The indices along an axis of this size, without negative ones. Raises IndexError for those outside.

    On a GPU an index outside would end the process, and to check them would wait for it: there they are taken modulo.
    """
    on_cpu = indices.device.type == "cpu" and indices.numel()
    if on_cpu and not -size <= int(indices.min()) <= int(indices.max()) < size:
        raise IndexError(f"an index out of {size}")
    return (indices % size).to(device) if size else indices.to(device)


def gather(x: Tensor, indices: Tensor, *, axis: int) -> Tensor:
    """The entries with these indices along an axis; negative ones count from its end."""
    place = axis_of(axis, x.ndim)
    places = wrapped(indices, x.shape[place], x.device)
    if indices.ndim == 0 and indices.device.type == "cpu":
        return x.select(place, int(indices) % x.shape[place])
    chosen = x.index_select(place, places.reshape(-1))
    return chosen.reshape(*x.shape[:place], *indices.shape, *x.shape[place + 1 :])


def _columns(indices: Tensor, sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
    """The indices along each axis, of rows that each name a place in a tensor that begins with these sizes."""
    if indices.shape[-1] > len(sizes):
        raise IndexError(f"places with {indices.shape[-1]} indices in a tensor of {len(sizes)} axes")
    return tuple(wrapped(indices[..., i], sizes[i], device) for i in range(indices.shape[-1]))


def gather_places(x: Tensor, indices: Tensor, *, batch: int) -> Tensor:
    """The entries at these places, (..., K) with K indices each; the first `batch` axes of both belong together."""
    groups = prod(x.shape[:batch])
    grouped, places = x.reshape(groups, *x.shape[batch:]), indices.reshape(groups, -1, indices.shape[-1])
    columns = _columns(places, tuple(grouped.shape[1:]), x.device)
    rows = torch.arange(groups, device=x.device)[:, None]
    return grouped[(rows, *columns)].reshape(*indices.shape[:-1], *x.shape[batch + indices.shape[-1] :])


def gather_elements(x: Tensor, indices: Tensor, *, axis: int) -> Tensor:
    """The entries whose places are those of the indices, but along one axis the indices themselves."""
    place = axis_of(axis, x.ndim)
    return x.gather(place, wrapped(indices, x.shape[place], x.device))


def scatter_places(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str) -> Tensor:
    """The tensor with updates at these places, in place of the entries there or added to them."""
    columns = _columns(indices, tuple(x.shape), x.device)
    return x.index_put(columns, updates.to(x.dtype), accumulate=reduction == "add")


def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int, reduction: str) -> Tensor:
    """The tensor with updates at places that are those of the updates, but along one axis the indices."""
    place = axis_of(axis, x.ndim)
    places = wrapped(indices, x.shape[place], x.device)
    if reduction == "none":
        return x.scatter(place, places, updates)
    return x.scatter_reduce(place, places, updates, reduce=REDUCTIONS[reduction])


def one_hot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int) -> Tensor:
    """A new axis of length `depth` with the second of two values at the index, and the first elsewhere."""
    (size,) = integers(depth.reshape(-1).long())
    refuse_large([*indices.shape, size])
    places = torch.where(indices < 0, indices + size, indices)[..., None]
    hit = places == torch.arange(size, device=indices.device)
    off, on = values.to(indices.device).unbind()
    return torch.where(hit, on, off).movedim(-1, axis)


def largest(x: Tensor, number: Tensor, *, axis: int, descending: bool) -> tuple[Tensor, Tensor]:
    """The largest or smallest entries along an axis, in their order, and their indices; the first of equal ones."""
    place = axis_of(axis, x.ndim)
    (k,) = integers(number.reshape(-1))
    if not 0 <= k <= x.shape[place]:
        raise ValueError(f"{k} of {x.shape[place]} entries")
    values, places = x.sort(dim=place, descending=descending, stable=True)
    return values.narrow(place, 0, k), places.narrow(place, 0, k)


def cumulative(x: Tensor, axis: Tensor, *, exclusive: bool, reverse: bool) -> Tensor:
    """The sums of all entries before each one along an axis, with itself unless `exclusive`."""
    (along,) = integers(axis.reshape(-1))
    place = axis_of(along, x.ndim)
    ordered = x.flip(place) if reverse else x
    total = ordered.cumsum(place)
    total = total - ordered if exclusive else total
    return total.flip(place) if reverse else total


def triangle(x: Tensor, diagonal: Tensor | None = None, *, upper: bool) -> Tensor:
    """The matrices with 0 below or above a diagonal."""
    (k,) = (0,) if diagonal is None else integers(diagonal.reshape(-1))
    return x.triu(k) if upper else x.tril(k)


def _top_k(node: Node) -> Layer:
    axis, descending = node.integer("axis", -1), bool(node.integer("largest", 1))
    node.integer("sorted", 1)  # sorted ones are right in any case
    if node.opset >= 10:
        return compute(largest, numbers=[1], axis=axis, descending=descending)
    return compute(_largest_of, number=torch.tensor(node.integer("k", 1)), axis=axis, descending=descending)


def _largest_of(x: Tensor, *, number: Tensor, axis: int, descending: bool) -> tuple[Tensor, Tensor]:
    return largest(x, number, axis=axis, descending=descending)


def _scatter_places(node: Node) -> Layer:
    reduction = node.text("reduction", "none")
    if reduction not in ("none", "add"):
        raise node.refused(f"has reduction={reduction!r}")
    return compute(scatter_places, numbers=[1], reduction=reduction)


def _scatter_elements(node: Node) -> Layer:
    reduction = node.text("reduction", "none")
    if reduction != "none" and reduction not in REDUCTIONS:
        raise node.refused(f"has reduction={reduction!r}")
    return compute(scatter_elements, numbers=[1], axis=node.integer("axis", 0), reduction=reduction)


def _cumulative(node: Node) -> Layer:
    exclusive, reverse = bool(node.integer("exclusive", 0)), bool(node.integer("reverse", 0))
    return compute(cumulative, numbers=[1], exclusive=exclusive, reverse=reverse)


INDEXING: Mapping[str, Maker] = {
    "CumSum": _cumulative,
    "Gather": lambda node: compute(gather, numbers=[1], axis=node.integer("axis", 0)),
    "GatherElements": lambda node: compute(gather_elements, numbers=[1], axis=node.integer("axis", 0)),
    "GatherND": lambda node: compute(gather_places, numbers=[1], batch=node.integer("batch_dims", 0)),
    "OneHot": lambda node: compute(one_hot, numbers=[1], axis=node.integer("axis", -1)),
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_places,
    "TopK": _top_k,
    "Trilu": lambda node: compute(triangle, numbers=[1], upper=bool(node.integer("upper", 1))),
}
