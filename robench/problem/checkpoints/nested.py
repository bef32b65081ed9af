"""The tensors in what a checkpoint file holds, however deep in dictionaries and lists, under one name each.

`{"model": {"conv.weight": w}}` holds `model.conv.weight`: the key of a dictionary in a file is a prefix like any other.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import UserError
from .pickled_arrays import Array, PickledArray

DEPTH = 50  # containers inside containers
ENTRIES = 2_000_000  # in all of them together: one container may be listed in several, and then counts each time
REPEATED = 2**26  # bytes: a tensor larger than its own memory may be no larger than this
SHOWN = 80  # characters of a name from a file

OPTIMISER = {"state", "param_groups"}
"""The keys of an optimiser's state dict."""


@dataclass(frozen=True)
class Nested:
    """What lies in nested containers. Names are joined with dots, the keys of lists are their indices."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)  # tensors that are no weights, each with the reason
    modules: dict[str, nn.Module] = field(default_factory=dict)
    containers: list[str] = field(default_factory=list)  # prefixes, as "model."; "" is the outermost
    listed: set[str] = field(default_factory=set)  # those that are items of a list
    numbers: dict[str, tuple[float, ...]] = field(default_factory=dict)  # a few of them, in no tensor
    plain: list[str] = field(default_factory=list)  # keys of the outermost that hold something else
    loops: list[str] = field(default_factory=list)  # names under which a container holds itself
    optimiser: bool = False  # the outermost is the state of one

    def container(self, name: str) -> str:
        """The innermost container that a name lies in."""
        end = len(name)
        while (end := name.rfind(".", 0, end)) >= 0:
            if name[: end + 1] in self._prefixes:
                return name[: end + 1]
        return ""

    @cached_property
    def _prefixes(self) -> frozenset[str]:
        return frozenset(self.containers)


def nested(held: object) -> Nested:
    """Raises UserError when there are too many containers, or two tensors of one name."""
    found = Nested(optimiser=isinstance(held, Mapping) and held.keys() == OPTIMISER)
    waiting: list[tuple[str, object, tuple[int, ...]]] = [("", held, ())]
    entries = 0
    while waiting:
        name, value, above = waiting.pop()
        entries += 1
        if entries > ENTRIES or len(above) > DEPTH:
            limit = f"more than {ENTRIES:,} entries" if entries > ENTRIES else f"containers more than {DEPTH} deep"
            raise UserError(f"it holds {limit}, which no checkpoint needs; save the model's state_dict()")
        if (few := _few(value)) is not None:
            found.numbers[name] = few
        if isinstance(value, Tensor | np.ndarray | PickledArray):
            _take(found, name, value)
        elif isinstance(value, nn.Module):
            found.modules[name] = value
        elif id(value) in above:
            found.loops.append(name)
        elif isinstance(value, Mapping | list | tuple):
            prefix = f"{name}." if above else ""
            found.containers.append(prefix)
            inside = list(_items(value))
            if not isinstance(value, Mapping):
                found.listed.update(f"{prefix}{key}." for key, _ in inside)
            waiting += [(prefix + key, item, (*above, id(value))) for key, item in reversed(inside)]
        elif len(above) == 1:
            found.plain.append(name)
    return found


def shown(name: str) -> str:
    """A name from a file, fit to be printed: of one line, and not too long."""
    text = name if name.isprintable() else name.encode("unicode_escape").decode()
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def first(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, fit to be printed, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(map(shown, every[:most])) + more


def words(name: str) -> list[str]:
    """The words of a name: `lr`, `schedulers` of `lr_schedulers.0.`"""
    return re.split(r"[\W\d_]+", name.lower())


def by(shape: Sequence[int]) -> str:
    """How a shape is written: 1x28x28."""
    return "x".join(map(str, shape)) if len(shape) else "one number"


def _items(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        return ((_key(key), item) for key, item in value.items())
    assert isinstance(value, list | tuple), "the only other containers"
    return ((str(index), item) for index, item in enumerate(value))


def _few(value: object) -> tuple[float, ...] | None:
    """A number, or a list of one for each of up to four channels."""
    numbers = value if isinstance(value, list | tuple) else [value]
    real = len(numbers) in range(1, 5) and all(isinstance(n, int | float) and abs(n) < 1e9 for n in numbers)
    return tuple(map(float, numbers)) if real else None


def _key(key: object) -> str:
    if isinstance(key, bytes):  # text of Python 2
        return key.decode("latin-1")
    return "a huge number" if isinstance(key, int) and abs(key) > 2**63 else str(key)


def _take(found: Nested, name: str, value: Tensor | Array | PickledArray) -> None:
    if name in found.tensors or name in found.unusable:
        raise UserError(f"it holds two tensors called {shown(name)}; save the model's state_dict() alone")
    tensor: Tensor | None = None
    array = value.array if isinstance(value, PickledArray) else value
    if isinstance(array, Tensor):
        tensor, reason = array.detach(), _fault(array)
    elif array is None:
        reason = "holds no numbers"
    elif array.dtype.kind == "c":
        reason = "is complex"
    elif array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        reason = f"holds {array.dtype}, not numbers that PyTorch has"
    else:
        native = array.astype(array.dtype.newbyteorder("="), order="C", copy=not array.flags.writeable)
        tensor, reason = torch.from_numpy(native), None
    if tensor is None or reason is not None:
        found.unusable[name] = reason or ""
    else:
        found.tensors[name] = tensor


def _fault(tensor: Tensor) -> str | None:
    """Why a tensor cannot be the weight of a network that is attacked."""
    if tensor.is_nested:
        return "is a nested tensor"
    if tensor.is_quantized:
        return "is quantised and has no gradients; save the model before quantisation"
    if tensor.layout != torch.strided:
        return f"is stored as {str(tensor.layout).removeprefix('torch.').replace('_', ' ')}; save it as to_dense()"
    if tensor.device.type == "meta":
        return "is on the meta device: it has a shape and no values"
    if tensor.is_complex():
        return "is complex"
    size = tensor.numel() * tensor.element_size()
    if size > max(REPEATED, tensor.untyped_storage().nbytes()):
        return f"is {by(tensor.shape)} numbers, repeated from fewer in the file"
    return None
