"""Flattens the nested dictionaries and lists of a checkpoint file to tensors by name.

`{"model": {"conv.weight": w}}` holds `model.conv.weight`: the key of a dictionary is a prefix like any other.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import UserError
from ..names import shown
from .pickled_arrays import Array, PickledArray

DEPTH = 50  # levels of containers
ENTRIES = 2_000_000  # in all containers together; a container that is referenced several times counts each time
REPEATED = 2**26  # bytes: the largest tensor that may be larger than its own storage

OPTIMISER = {"state", "param_groups"}
"""The keys of an optimiser's state dict."""


@dataclass(frozen=True)
class Nested:
    """The flattened contents of nested containers. Names are joined with dots; the keys of lists are their indices."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)  # tensors that cannot be weights, each with the reason
    modules: dict[str, nn.Module] = field(default_factory=dict)
    containers: list[str] = field(default_factory=list)  # prefixes, as "model."; "" is the outermost
    listed: set[str] = field(default_factory=set)  # containers that are items of a list
    numbers: dict[str, tuple[float, ...]] = field(default_factory=dict)  # up to four plain numbers, not in a tensor
    plain: list[str] = field(default_factory=list)  # keys of the outermost container that hold something else
    loops: list[str] = field(default_factory=list)  # names under which a container holds itself
    optimiser: bool = False  # the outermost container is an optimiser's state dict

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
    """The flattened contents of `held`. Raises UserError for too many containers, or two tensors of one name."""
    found = Nested(optimiser=isinstance(held, Mapping) and held.keys() == OPTIMISER)
    waiting: list[tuple[str, object, tuple[int, ...]]] = [("", held, ())]
    entries = 0
    while waiting:
        name, value, above = waiting.pop()
        entries += 1
        if entries > ENTRIES or len(above) > DEPTH:
            limit = f"more than {ENTRIES:,} entries" if entries > ENTRIES else f"containers more than {DEPTH} deep"
            raise UserError(f"it holds {limit}, too many for a checkpoint; save the model's state_dict()")
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


def first(names: Iterable[str], limit: int = 3) -> str:
    """The first `limit` names in printable form, and the number of the others."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(map(shown, every[:limit])) + more


def words(name: str) -> list[str]:
    """The words of a name: `lr` and `schedulers` for `lr_schedulers.0.`."""
    return re.split(r"[\W\d_]+", name.lower())


def by(shape: Sequence[int]) -> str:
    """A shape as text: 1x28x28."""
    return "x".join(map(str, shape)) if len(shape) else "one number"


def _items(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        return ((_key(key), item) for key, item in value.items())
    assert isinstance(value, list | tuple), "the only other containers"
    return ((str(index), item) for index, item in enumerate(value))


def _few(value: object) -> tuple[float, ...] | None:
    """The value as a tuple of floats if it is a number, or a list of up to four, one for each channel; else None."""
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
        tensor = torch.from_numpy(native)
        reason = _fault(tensor)
    if tensor is None or reason is not None:
        found.unusable[name] = reason or ""
    else:
        found.tensors[name] = tensor


def _fault(tensor: Tensor) -> str | None:
    """Why a tensor cannot be a weight of a differentiable network; None if it can."""
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
    if tensor.ndim > 1 and not tensor.numel():
        return f"is empty, {by(tensor.shape)}"
    size = tensor.numel() * tensor.element_size()
    if size > max(REPEATED, tensor.untyped_storage().nbytes()):
        return f"is {by(tensor.shape)} numbers, repeated from fewer in the file"
    return None
