"""Which registered architecture a state dict belongs to, and how its tensors are called there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...errors import UserError
from ..architectures import ARCHITECTURES, Architecture, Shapes
from .contents import bare

SIDES = (28, 32, 64, 96, 224)
"""Heights and widths to try where neither the data nor the file says them, in pixels."""


@dataclass(frozen=True)
class Match:
    """An architecture, built for images of `shape`, takes `tensors` as its state dict."""

    architecture: Architecture
    shape: tuple[int, ...]
    classes: int
    tensors: Mapping[str, Tensor]
    how: str  # by what it was recognised


def matches(
    tensors: Mapping[str, Tensor],
    likely: tuple[tuple[int, ...], ...],
    among: Mapping[str, Architecture] = ARCHITECTURES,
) -> list[Match]:
    """Every architecture that fits, in the order of the registry; by key names, or else by shapes alone.

    `likely` are image shapes to try first. Channels and classes are read off the weights.
    """
    stages = bare(tensors)
    by_names = [m for a in among.values() for stage in stages if (m := _by_names(a, stage, likely))]
    return by_names or [m for a in among.values() if (m := _by_shapes(a, _settled(stages[-1]), likely))]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by its key."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def _settled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the counters of batch norm, which older files lack and no forward pass reads."""
    return {key: tensor for key, tensor in tensors.items() if not key.endswith("num_batches_tracked")}


def _by_names(
    architecture: Architecture, tensors: dict[str, Tensor], likely: tuple[tuple[int, ...], ...]
) -> Match | None:
    shapes = shapes_of(_settled(tensors))
    read = architecture.read(shapes)
    if read is None or shapes.keys() != _any_layout(architecture).keys():
        return None
    for shape, layout in _layouts(architecture, *read, likely):
        if layout == shapes:
            return Match(architecture, shape, read[1], tensors, "its key names and shapes")
    return None


def _by_shapes(
    architecture: Architecture, tensors: dict[str, Tensor], likely: tuple[tuple[int, ...], ...]
) -> Match | None:
    if len(tensors) != len(_any_layout(architecture)):
        return None
    shapes = list(shapes_of(tensors).values())
    images = [shape for shape in shapes if len(shape) == 4]
    dense = [shape for shape in shapes if len(shape) == 2]
    # In a file whose keys are sorted the first and the last tensor can be any: try them all.
    for channels in dict.fromkeys(shape[1] for shape in images):
        for classes in dict.fromkeys(shape[0] for shape in reversed(dense)):
            for shape, layout in _layouts(architecture, channels, classes, likely):
                renamed = _renamed(tensors, layout)
                if renamed is not None:
                    how = "the shapes of its tensors alone, for it has other key names"
                    return Match(architecture, shape, classes, renamed, how)
    return None


def _renamed(tensors: dict[str, Tensor], layout: Shapes) -> dict[str, Tensor] | None:
    """The tensors under the layout's keys: the same shapes in the same order, or in any order if no two are equal."""
    given, wanted = list(shapes_of(tensors).values()), list(layout.values())
    if given == wanted:
        return dict(zip(layout, tensors.values(), strict=True))
    if sorted(given) == sorted(wanted) and len(set(given)) == len(given):
        by_shape = {tuple(tensor.shape): tensor for tensor in tensors.values()}
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
        except UserError:  # too small an image for it
            continue


def _any_layout(architecture: Architecture) -> Shapes:
    """The keys, which are the same for all images."""
    return _layout(architecture, (1, 32, 32), 2)


@lru_cache(maxsize=256)
def _layout(architecture: Architecture, shape: tuple[int, ...], classes: int) -> Shapes:
    with torch.device("meta"):
        return shapes_of(_settled(architecture.build(shape, classes).state_dict()))
