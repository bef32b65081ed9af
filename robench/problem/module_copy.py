"""Copies of the caller's modules, so that an evaluation does not change the originals."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def own_copy(module: nn.Module, instead: Mapping[int, object] | None = None) -> nn.Module:
    """A copy that shares no weights with the module, in eval mode.

    Stored activations are copied without their graph. Attributes that cannot be copied (locks, open files, loggers)
    are shared. Neither affects what a forward pass returns. `instead` has what takes the place of parts, by their ids.
    """
    with torch.no_grad():  # otherwise the weights in the copy of a scripted module have a graph
        try:
            return copy.deepcopy(module, dict(instead or {})).eval()
        except Exception:  # whatever its attributes raise
            memo: dict[int, Any] = dict(instead or {})
            for part in module.modules():
                for value in _values(vars(part)):
                    _settle(value, memo)
            return copy.deepcopy(module, memo).eval()


def _values(held: object) -> Iterator[object]:
    """The values in attributes, in containers at any depth; submodules are left to `Module.modules`."""
    if isinstance(held, dict):
        held = list(held.values())
    if isinstance(held, list | tuple | set | frozenset):
        for value in held:
            yield from _values(value)
    elif not isinstance(held, nn.Module):
        yield held


def _settle(value: object, memo: dict[int, Any]) -> None:
    """Enters into `memo` how to copy a value for which a deep copy would fail."""
    if isinstance(value, Tensor):
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
        return
    try:
        copy.deepcopy(value)
    except Exception:
        memo[id(value)] = value
