"""A module of the caller's as one of our own: what an evaluation does to it changes nothing of theirs."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def own_copy(module: nn.Module) -> nn.Module:
    """A copy that shares no weights with the module, in eval mode.

    Kept activations are copied without their history, and what cannot be copied (locks, open files, loggers) is
    shared: neither decides what a forward pass answers.
    """
    with torch.no_grad():  # else the weights of a scripted module's copy have a history
        try:
            return copy.deepcopy(module).eval()
        except Exception:  # of whatever kind its attributes raise
            memo: dict[int, Any] = {}
            for part in module.modules():
                for value in _values(vars(part)):
                    _settle(value, memo)
            return copy.deepcopy(module, memo).eval()


def _values(held: object) -> Iterator[object]:
    """What is held by attributes, in containers at any depth; submodules are met by themselves."""
    if isinstance(held, dict):
        held = list(held.values())
    if isinstance(held, list | tuple | set | frozenset):
        for value in held:
            yield from _values(value)
    elif not isinstance(held, nn.Module):
        yield held


def _settle(value: object, memo: dict[int, Any]) -> None:
    """Decide how a value is copied, where a deep copy would fail."""
    if isinstance(value, Tensor):
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
        return
    try:
        copy.deepcopy(value)
    except Exception:
        memo[id(value)] = value
