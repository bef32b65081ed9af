"""Derivatives of the entries that a model takes from a table, at places that it computes from the image.

Steps have no derivative, so a place is marked with what it was computed from: `_stood_for`, a number that was rounded,
with how far it was past the middle of its step, `_past`; or `_ranked`, scores whose largest or smallest were chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .stand_in import stands_for

TABLES = {"__getitem__", "index", "embedding", "take", "gather", "index_select"}
_LISTED = {
    "topk": ("input", "k", "dim", "largest"),
    **dict.fromkeys(("sort", "argsort"), ("input", "dim", "descending")),
}
_FIRST = {"argmin": False, "argmax": True, "min": False, "max": True}  # whether the largest is chosen


@dataclass(frozen=True)
class Ranked:
    """How places in a table were chosen: those of the largest or smallest scores along the last dimension."""

    scores: Tensor  # (..., N)
    sign: float  # -1 where the smallest are chosen
    shape: tuple[int, ...]  # of the places: (..., K) for the first K, (...) for the first

    def mean(self, table: Tensor) -> Tensor:
        """The entries (N, ...) of a table, averaged by a softmax of the scores, at each place.

        The temperature is the range of the 2K first scores, so that the entries just beyond the K first count too.
        """
        listed = len(self.shape) == self.scores.ndim
        scores, twice = self.sign * self.scores, 2 * self.shape[-1] if listed else 2
        first = scores.detach().topk(min(twice, scores.shape[-1]), dim=-1).values
        temperature = (first[..., :1] - first[..., -1:]).clamp(min=1e-12)
        mean = (scores / temperature).softmax(dim=-1).to(table.dtype) @ table.flatten(1)
        mean = mean.view(*scores.shape[:-1], *table.shape[1:])
        if not listed:
            return mean
        return mean.unsqueeze(scores.ndim - 1).expand(*self.shape, *table.shape[1:])


def note_ranks(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Mark the places that a function returns with the scores by which it has chosen them."""
    names = _LISTED.get(name, ("input", "dim", "keepdim") if name in _FIRST else ())
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    scores, places = given.get("input"), out[1] if isinstance(out, tuple) and len(out) == 2 else out
    if not names or not isinstance(scores, Tensor) or not isinstance(places, Tensor) or places.is_floating_point():
        return
    dim = given.get("dim", -1 if name in _LISTED else None)
    if scores.requires_grad and dim in (-1, scores.ndim - 1) and not given.get("keepdim"):
        largest = _FIRST.get(name, given.get("largest", name == "topk") or given.get("descending", False))
        places._ranked = Ranked(scores, 1.0 if largest else -1.0, tuple(places.shape))  # type: ignore[attr-defined]


def entry(args: Sequence[Any], out: Tensor) -> Tensor:
    """What a model took from a table, with a derivative."""
    given = list(chain.from_iterable(a if isinstance(a, tuple | list) else (a,) for a in args))
    places = next((a for a in given if hasattr(a, "_ranked") or hasattr(a, "_stood_for")), None)
    if not isinstance(places, Tensor):
        return out
    table = next((a for a in given if isinstance(a, Tensor) and a is not places), None)
    if table is None:  # a part of the places themselves
        return _part(places, out)
    whole = out.shape == (*places.shape, *table.shape[1:])
    ranked = getattr(places, "_ranked", None)
    if ranked is not None:
        return _of_ranks(ranked, table, out) if whole and table.shape[0] == ranked.scores.shape[-1] else out
    source, slope = places._stood_for  # type: ignore[attr-defined]
    if not source.requires_grad or source.shape != places.shape or not out.is_floating_point():
        return out
    if source.shape == out.shape:
        return stands_for(source, out, slope)  # as if the table rose with the place: its steps may be flat
    return out + _move(source, slope, places, table) if whole and len(table) > 1 else out


def _part(places: Tensor, out: Tensor) -> Tensor:
    """Some of the places, the first ones along the last dimension."""
    ranked = getattr(places, "_ranked", None)
    if ranked is not None and out.shape[: places.ndim - 1] == places.shape[:-1]:
        out._ranked = replace(ranked, shape=tuple(out.shape))  # type: ignore[attr-defined]
    return out


def _of_ranks(ranked: Ranked, table: Tensor, out: Tensor) -> Tensor:
    """Entries with the derivative of their mean over the places that might have been chosen."""
    if table.is_floating_point():
        mean = ranked.mean(table.detach())
        return out + (mean - mean.detach()).to(out.dtype)
    if table.ndim == 1:  # classes: `one_hot` of them follows
        out._classes = ranked, table  # type: ignore[attr-defined]
    return out


def one_hot(classes: Tensor, out: Tensor) -> Tensor:
    """Rows of zeros and a one, for classes from a table."""
    ranked, table = classes._classes  # type: ignore[attr-defined]
    every = torch.nn.functional.one_hot(table, out.shape[-1]).to(ranked.scores.dtype)
    out._stood_for = (ranked.mean(every), 1.0)  # type: ignore[attr-defined]
    return out


def _move(source: Tensor, slope: float | Tensor, places: Tensor, table: Tensor) -> Tensor:
    """Zero, with the derivative of entries (N, ...) at places that move with `source`: the way to the nearer neighbour.

    Entries need not rise or fall with the place, as those of an embedding of intensities.
    """
    place, tail = places % len(table), [1] * (table.ndim - 1)
    upwards = getattr(places, "_past", torch.zeros_like(source)) > 0
    below = torch.where(upwards, place, place - 1).clamp(min=0, max=len(table) - 2)
    rise = (table[below + 1] - table[below]).detach().nan_to_num(0, 0, 0)
    return stands_for(source, torch.zeros_like(source), slope).view(*place.shape, *tail) * rise
