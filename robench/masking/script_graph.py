"""Compiled programs in a model, read operator by operator where this gives the same answers."""

import torch
from torch import nn

from ..problem.checkpoints.programs import read_by_operators, takes_no_repairs
from ..problem.checkpoints.torchscript.interpreted import UnreadableGraphError
from ..problem.randomness import seeded
from ..problem.shapes import Inputs


def is_compiled(module: nn.Module) -> bool:
    """Whether some part of a module was compiled by TorchScript, so that its layers are out of reach."""
    return any(map(takes_no_repairs, module.modules()))


def readable(module: nn.Module, x: Inputs) -> nn.Module:
    """The module with every TorchScript program in it read node by node, where this gives the same answers on `x`.

    The module itself, where it has no such program, or one that cannot be read.
    """
    try:
        found = _replaced(module)
        if found is module:
            return module
        with torch.no_grad(), seeded(0, x.device):
            one = module(x.clone())
        with torch.no_grad(), seeded(0, x.device):
            same = torch.equal(one, found(x.clone()))
    except (UnreadableGraphError, RuntimeError, TypeError, KeyError):
        return module
    return found if same else module


def _replaced(module: nn.Module) -> nn.Module:
    if takes_no_repairs(module):
        return read_by_operators(module)
    children = {name: _replaced(child) for name, child in module.named_children()}
    if all(child is getattr(module, name) for name, child in children.items()):
        return module
    copied = module.__new__(type(module))
    copied.__dict__ = module.__dict__ | {"_modules": module._modules | children}
    return copied
