"""Recognises the registered architecture of a state dict, and the key of each tensor in it."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import torch
from torch import Tensor

from ...errors import UserError
from ..architectures import ARCHITECTURES, FAMILIES, SINGLE, Architecture, Family, Shapes, dotted, named
from .contents import Contents
from .own_normalisation import is_part
from .places import COUNTER, INNER, Place, Wanted, find, fits, is_copy

SIDES = (28, 32, 64, 96, 224, 384)
"""Heights and widths to try if neither the data nor the file gives them, in pixels."""
CLASSES = 2
"""Any number of classes: the keys do not depend on it."""
MEMBERS = 64
"""Members of families that are tried for one file."""
BY_NAMES = "its key names and shapes"
BY_SHAPES = "the shapes of its tensors, because its key names differ"


@dataclass(frozen=True)
class Match:
    """An architecture that, built for images of `shape`, loads the weights in `place` as its state dict."""

    architecture: Architecture
    shape: tuple[int, ...]
    classes: int
    place: Place
    how: str  # what it was recognised by
    beside: tuple[str, ...] = ()  # names of tensors among its weights that it does not use


def matches(
    contents: Contents,
    likely: tuple[tuple[int, ...], ...],
    among: Iterable[Architecture] | None = None,
) -> list[Match]:
    """Every architecture that fits, by key names, or if none does, by shapes only; all that are known, or `among`.

    `likely` are image shapes to try first. Channels and classes follow from the weights. If some matches leave no
    tensors unused, only these are returned. Of those that have equal keys and shapes, the preferred one is the first.
    """
    tried = (*SINGLE, *_members(contents)) if among is None else tuple(among)
    by_names = [match for a in tried for match in _by_names(a, contents, likely)]
    places = [match.place for match in by_names]
    by_names = [replace(match, beside=_beside(match.place, places, contents)) for match in by_names]
    whole = [match for match in by_names if not match.beside]
    if by_names:
        return whole or by_names
    sets = _sets(contents)
    tried = tuple(a for a in ARCHITECTURES.values() if a.by_shapes) if among is None else tried
    return [match for a in tried for match in _by_shapes(a, sets, likely)]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by its key."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def _members(contents: Contents) -> list[Architecture]:
    """The members of families whose names follow from the shapes in the file; whether they fit is not checked."""
    keys: dict[str, tuple[int, ...]] = {}
    for name, tensor in contents.tensors.items():
        inner = ".".join(part for part in name.split(".") if part not in INNER)
        keys.setdefault(dotted(name), tuple(tensor.shape))
        keys.setdefault(dotted(inner), tuple(tensor.shape))
    ordered = sorted(keys)
    found = {a.name: a for family in FAMILIES for a in islice(_members_of(family, keys, ordered), MEMBERS)}
    return list(found.values())


def _members_of(family: Family, keys: Shapes, ordered: list[str]) -> Iterator[Architecture]:
    anchor = dotted(family.anchor)
    for key in keys:
        if key == anchor or key.endswith(f".{anchor}"):
            prefix = key.removesuffix(anchor)
            inside = ordered[bisect_left(ordered, prefix) : bisect_left(ordered, prefix + chr(0x10FFFF))]
            shapes = {name[len(prefix) :]: keys[name] for name in inside}
            yield from filter(None, map(named, family.names(shapes)))


def _by_names(architecture: Architecture, contents: Contents, likely: tuple[tuple[int, ...], ...]) -> Iterator[Match]:
    for place in find(contents.tensors, Wanted.like(_state(architecture, architecture.accepted, CLASSES))):
        tensors = place.tensors(contents.tensors)
        read = architecture.read(shapes_of(tensors))
        if read is None:
            continue
        for shape, layout in _layouts(architecture, *read, likely):
            if all(fits(tensors[key], wanted, loose=contents.loose) for key, wanted in layout.items()):
                yield Match(architecture, shape, read[1], place, BY_NAMES)
                break


def _beside(place: Place, places: list[Place], contents: Contents) -> tuple[str, ...]:
    """The names among these weights that neither the network, a copy of it, nor a normalisation uses."""
    used = {name for other in places for name in other.names.values()}
    own = {contents.nested.container(prefix) for prefix in place.prefixes}

    def belongs(name: str) -> bool:
        prefix = next((prefix for prefix in place.prefixes if name.startswith(prefix)), None)
        if prefix is None or name in used or name.endswith((COUNTER, "n_averaged")) or is_part(name):
            return False
        return contents.nested.container(name) in own and not is_copy(name[len(prefix) :].partition(".")[0])

    return tuple(filter(belongs, contents.tensors))


def _sets(contents: Contents) -> dict[str, dict[str, Tensor]]:
    """The tensors in each container."""
    sets: dict[str, dict[str, Tensor]] = {}
    for name, tensor in contents.tensors.items():
        if not (name.endswith((COUNTER, "n_averaged")) or is_part(name)):
            sets.setdefault(contents.nested.container(name), {})[name] = tensor
    return sets


def _by_shapes(
    architecture: Architecture, sets: Mapping[str, dict[str, Tensor]], likely: tuple[tuple[int, ...], ...]
) -> Iterator[Match]:
    for container, tensors in sets.items():
        if len(tensors) == len(_any_layout(architecture)):
            match = _by_shapes_of(architecture, tensors, likely)
            if match is not None:
                shape, classes, names = match
                yield Match(architecture, shape, classes, Place((container,), names), BY_SHAPES)


def _by_shapes_of(
    architecture: Architecture, tensors: dict[str, Tensor], likely: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], int, dict[str, str]] | None:
    shapes = list(shapes_of(tensors).values())
    images = [shape for shape in shapes if len(shape) == 4]
    dense = [shape for shape in shapes if len(shape) == 2]
    # If the keys are sorted, any tensor can be the first or the last layer: try them all.
    for channels in dict.fromkeys(shape[1] for shape in images):
        for classes in dict.fromkeys(shape[0] for shape in reversed(dense)):
            for shape, layout in _layouts(architecture, channels, classes, likely):
                names = _renamed(tensors, layout)
                if names is not None:
                    return shape, classes, names
    return None


def _renamed(tensors: dict[str, Tensor], layout: Shapes) -> dict[str, str] | None:
    """The name for each key of the layout: equal shapes in the same order, or in any order if no two are equal."""
    given, wanted = list(shapes_of(tensors).values()), list(layout.values())
    if given == wanted:
        return dict(zip(layout, tensors, strict=True))
    if sorted(given) == sorted(wanted) and len(set(given)) == len(given):
        by_shape = {tuple(tensor.shape): name for name, tensor in tensors.items()}
        return {key: by_shape[shape] for key, shape in layout.items()}
    return None


def _layouts(
    architecture: Architecture, channels: int, classes: int, likely: tuple[tuple[int, ...], ...]
) -> Iterator[tuple[tuple[int, ...], Shapes]]:
    sides = sorted(SIDES, key=lambda side: side != 32) if channels == 3 else SIDES
    tried = [*(shape[1:] for shape in likely if len(shape) == 3), *((side, side) for side in sides)]
    for height, width in dict.fromkeys(tried):
        shape = (channels, height, width)
        try:
            yield shape, _layout(architecture, shape, classes)
        except UserError:  # the image is too small for it
            continue


def _any_layout(architecture: Architecture) -> Shapes:
    """The layout for some image shape; its keys are the same for all."""
    return _layout(architecture, architecture.accepted, CLASSES)


@lru_cache(maxsize=256)
def _layout(architecture: Architecture, shape: tuple[int, ...], classes: int) -> Shapes:
    """The shapes that a file must have, without the counters of batch norm."""
    return {key: s for key, s in _state(architecture, shape, classes).items() if not key.endswith(COUNTER)}


@lru_cache(maxsize=256)
def _state(architecture: Architecture, shape: tuple[int, ...], classes: int) -> Shapes:
    with torch.device("meta"):
        return shapes_of(architecture.build(shape, classes).state_dict())
