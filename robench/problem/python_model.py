"""Models passed as Python objects (modules, scripted modules, any other callable), wrapped as modules of our own."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .architectures.normalise import Around
from .batches import answering
from .module_copy import own_copy
from .shapes import Inputs


class Called(nn.Module):
    """A callable that is not a module: a function, a bound method, an object with `__call__`.

    It cannot be copied, so weights that it holds are shared with the caller.
    """

    def __init__(self, function: Callable[[Tensor], Any]):
        super().__init__()
        self.function = function

    def forward(self, x: Inputs) -> Any:
        return self.function(x)


class Method(nn.Module):
    """A bound method of a module, such as `net.predict`, on a copy of the module whose weights are registered here."""

    def __init__(self, network: nn.Module, name: str):
        super().__init__()
        self.network, self.name = network, name

    def forward(self, x: Inputs) -> Any:
        return getattr(self.network, self.name)(x)


def own_module(
    model: Callable[[Tensor], Any], x: Inputs, classes: int | None, device: torch.device
) -> tuple[nn.Module, tuple[str, ...]]:
    """The model as a module on this device from images to logits; it shares no weights with the caller if possible.

    `x` are at least two images to try. A network in half or double precision that fails on float32 images becomes a
    float32 copy with the same weights, with a note. Raises UserError if the object is not a model.
    """
    if isinstance(model, type):
        raise UserError(f"{model.__name__} is a class, not a model; give an instance of it, with its weights")
    if isinstance(model, Mapping):
        raise UserError(
            f"{type(model).__name__} is not a model but, it seems, its weights: load them into the network with"
            " load_state_dict, and give the network; or name their file"
        )
    if not callable(model):
        raise UserError(
            f"{type(model).__name__} is not a model: give a torch.nn.Module, a function from images to logits, a"
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
        return module, (f"the weights are {precise}; the evaluation uses a float32 copy of them", *notes)


def _as_module(model: Callable[[Tensor], Any]) -> nn.Module:
    if isinstance(model, torch.jit.ScriptModule):
        return Around(own_copy(model))  # scripted modules lack methods that modules have
    if isinstance(model, nn.Module):
        return own_copy(model)
    holder = getattr(model, "__self__", None)
    if isinstance(holder, nn.Module):
        return Method(own_copy(holder), model.__name__)
    return Called(model)


def name_of(model: object) -> str:
    """The name of a model in tables and run files: its class, or the name of its function."""
    if isinstance(model, nn.Module):
        return type(model).__qualname__
    named = getattr(model, "__qualname__", None) or type(model).__qualname__
    return str(named).replace("<locals>.", "").replace("<lambda>", "lambda")
