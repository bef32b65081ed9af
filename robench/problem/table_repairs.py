"""Derivatives of the entries that a model takes from a table, at places that it computes from the image."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .marks import Mark, Marks, Ranked
from .stand_in import also, stands_for

TABLES = {"__getitem__", "index", "embedding", "take", "gather", "index_select"}
_LISTED = {"topk": ("input", "k", "dim", "largest"), "sort": ("input", "dim", "descending")}
_LISTED |= {"argsort": _LISTED["sort"]}
_FIRST = {"argmin": False, "argmax": True, "min": False, "max": True}  # whether the largest is chosen


def note_ranks(marks: Marks, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Mark the places that a function returns with the scores by which it has chosen them."""
    names = _LISTED.get(name, ("input", "dim", "keepdim") if name in _FIRST else ())
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    scores, places = given.get("input"), out[1] if isinstance(out, tuple) and len(out) == 2 else out
    if not names or not isinstance(scores, Tensor) or not isinstance(places, Tensor) or places.is_floating_point():
        return
    listed = name in _LISTED
    dim = given.get("dim", -1 if listed else None)
    fits = scores.ndim > 0 and scores.is_floating_point() and places.numel() > 0
    if fits and scores.requires_grad and dim in (-1, scores.ndim - 1) and not given.get("keepdim"):
        largest = _FIRST.get(name, given.get("largest", name == "topk") or given.get("descending", False))
        mark = replace(marks.of(places), ranked=Ranked(scores, 1.0 if largest else -1.0, listed))
        marks.put(places, mark)


def entry(marks: Marks, name: str, args: Sequence[Any], out: Tensor) -> Tensor:
    """What a model took from a table, with a derivative."""
    table, places = _table_and_places(name, args)
    if places is None:
        return _first_ones(marks, table, args, out)
    mark = marks.of(places)
    if table is None or not places.numel() or places.dtype in (torch.bool, torch.uint8):
        return out
    whole = name != "gather" and out.shape == (*places.shape, *table.shape[1:])
    if mark.ranked is not None and whole and len(table) == mark.ranked.scores.shape[-1]:
        if table.is_floating_point():
            return also(out, mark.ranked.mean(table, places))
        return marks.put(out, Mark(ranked=mark.ranked, labels=table)) if table.ndim == 1 else out
    if mark.source is None or mark.source.shape != places.shape or not out.is_floating_point():
        return out
    if out.shape == places.shape:
        return stands_for(mark.source, out, mark.slope)  # as if the table rose with the place: its steps may be flat
    return also(out, _move(mark, mark.source, places, table)) if whole and len(table) > 1 else out


def _table_and_places(name: str, args: Sequence[Any]) -> tuple[Tensor | None, Tensor | None]:
    """The table and the places, if there is one tensor of them."""
    place = args[-1] if name in ("gather", "index_select") else args[1] if len(args) > 1 else None
    if isinstance(place, tuple | list) and len(place) == 1:
        place = place[0]
    table = args[0]
    if name == "embedding" and isinstance(place, Tensor) and place.is_floating_point():
        table, place = place, table  # as in torch.nn.functional
    found = table if isinstance(table, Tensor) else None, place if isinstance(place, Tensor) else None
    return (None, found[1]) if name == "index_select" and args[1] != 0 else found


def _first_ones(marks: Marks, places: Tensor | None, args: Sequence[Any], out: Tensor) -> Tensor:
    """The first of ranked places: `places[:, :k]` or `places[..., 0]`."""
    ranked, index = marks.of(places).ranked, args[1] if len(args) > 1 else None
    if ranked is None or places is None or not ranked.listed or not isinstance(index, tuple) or not index:
        return out
    before, last = index[:-1], index[-1]
    everything = before == (Ellipsis,) or (len(before) == places.ndim - 1 and all(i == slice(None) for i in before))
    if everything and (last == 0 or (isinstance(last, slice) and last.start in (None, 0) and last.step in (None, 1))):
        marks.put(out, Mark(ranked=replace(ranked, listed=last != 0)))
    return out


def one_hot(marks: Marks, labels: Tensor, out: Tensor) -> Tensor:
    """Rows of zeros and a one, for labels from a table at ranked places."""
    mark = marks.of(labels)
    assert mark.ranked is not None
    assert mark.labels is not None
    every = (mark.labels[:, None] == torch.arange(out.shape[-1], device=out.device)).to(mark.ranked.scores.dtype)
    return marks.put(out, Mark(mark.ranked.mean(every, labels)))


def _move(mark: Mark, source: Tensor, places: Tensor, table: Tensor) -> Tensor:
    """Zeros with the derivative of entries (N, ...) at places that move with `source`: the way to the nearer neighbour.

    Entries need not rise or fall with the place, as those of an embedding of intensities.
    """
    place, tail = places % len(table), [1] * (table.ndim - 1)
    upwards = mark.past > 0 if mark.past is not None else torch.zeros_like(place, dtype=torch.bool)
    below = torch.where(upwards, place, place - 1).clamp(min=0, max=len(table) - 2)
    rise = (table[below + 1] - table[below]).detach().to(source.dtype).nan_to_num(0.0, 0.0, 0.0)
    return stands_for(source, torch.zeros_like(source), mark.slope).view(*place.shape, *tail) * rise
