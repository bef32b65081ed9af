"""A model that the caller holds in Python, as a module of our own: modules, scripted ones, and any other callable."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .architectures.normalise import Around
from .batches import answering
from .module_copy import own_copy
from .shapes import Inputs


class Called(nn.Module):
    """A callable that is no module: a function, a bound method, an object with `__call__`.

    It is called as it is, for it cannot be copied: weights it holds are the caller's own.
    """

    def __init__(self, function: Callable[[Tensor], Any]):
        super().__init__()
        self.function = function

    def forward(self, x: Inputs) -> Any:
        return self.function(x)


class Method(nn.Module):
    """A bound method of a module, such as `net.predict`: of a copy, whose weights are known as the module's are."""

    def __init__(self, network: nn.Module, name: str):
        super().__init__()
        self.network, self.name = network, name

    def forward(self, x: Inputs) -> Any:
        return getattr(self.network, self.name)(x)


def own_module(
    model: Callable[[Tensor], Any], x: Inputs, classes: int | None, device: torch.device
) -> tuple[nn.Module, tuple[str, ...]]:
    """The model as a module on this device from images to logits, that shares no weights where that can be had.

    `x` are a few images to try it on, at least two. A network in half or double precision that takes no float32
    images becomes a float32 copy of the same weights, and a note says so. Raises UserError for what is no model.
    """
    if isinstance(model, type):
        raise UserError(f"{model.__name__} is a class, not a model; give a network of it, with its weights")
    if not callable(model):
        raise UserError(
            f"{type(model).__name__} is no model: give a torch.nn.Module, a function from images to logits, a"
            " checkpoint or the name of a bundled model"
        )
    network, images = _as_module(model).to(device), x.to(device)
    try:
        return answering(network, images, classes)
    except UserError:
        raise
    except Exception as error:  # whatever the model's own code raises
        kinds = {str(p.dtype).removeprefix("torch.") for p in network.parameters() if p.is_floating_point()}
        if kinds <= {"float32"}:
            raise
        try:
            module, notes = answering(network.float(), images, classes)
        except UserError:
            raise
        except Exception:
            raise error from None
        precise = " and ".join(sorted(kinds - {"float32"}))
        return module, (f"the weights are {precise}; what is judged is the float32 copy of them", *notes)


def _as_module(model: Callable[[Tensor], Any]) -> nn.Module:
    if isinstance(model, torch.jit.ScriptModule):
        return Around(own_copy(model))  # it lacks methods that modules have
    if isinstance(model, nn.Module):
        return own_copy(model)
    holder = getattr(model, "__self__", None)
    if isinstance(holder, nn.Module):
        return Method(own_copy(holder), model.__name__)
    return Called(model)


def name_of(model: object) -> str:
    """What a model is called in tables and run files: its class, or the name of its function."""
    if isinstance(model, nn.Module):
        return type(model).__qualname__
    named = getattr(model, "__qualname__", None) or type(model).__qualname__
    return str(named).replace("<locals>.", "").replace("<lambda>", "lambda")
