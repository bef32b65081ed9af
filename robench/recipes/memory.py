"""Tensors in the memory of a training, which a recipe carries from step to step and which is saved with the state.

A group of tensors has keys that start with its name and a dot.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.optim import Optimizer

Memory = dict[str, Tensor]


def stored(memory: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors of a group by their names in it; empty before the first are stored."""
    return {key[len(group) + 1 :]: value for key, value in memory.items() if key.startswith(f"{group}.")}


def store(memory: Memory, group: str, tensors: Mapping[str, Tensor]) -> None:
    """Puts tensors into a group, without their gradients."""
    memory.update({f"{group}.{name}": tensor.detach() for name, tensor in tensors.items()})


def forget(memory: Memory, *groups: str) -> None:
    """Removes groups."""
    for key in [key for key in memory if key.startswith(tuple(f"{group}." for group in groups))]:
        del memory[key]


def resume(optimiser: Optimizer, memory: Memory, group: str, weights: Mapping[str, Tensor]) -> None:
    """Gives an optimiser of these weights the state that `store_optimiser` stored."""
    for name, weight in weights.items():
        if known := stored(memory, f"{group}.{name}"):
            optimiser.state[weight] = {
                key: value.to(weight.device) if value.shape == weight.shape else value for key, value in known.items()
            }


def store_optimiser(optimiser: Optimizer, memory: Memory, group: str, weights: Mapping[str, Tensor]) -> None:
    """Stores the state of an optimiser of these weights."""
    for name, weight in weights.items():
        state = optimiser.state.get(weight, {})
        store(memory, f"{group}.{name}", {key: value for key, value in state.items() if value is not None})
