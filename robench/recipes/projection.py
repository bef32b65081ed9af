"""Gradient projection: natural training in adversarial training, Jiang and Singh 2024. https://arxiv.org/abs/2402.06827

In every epoch a copy of the network trains on the images as they are. At its end, the update of every tensor becomes

    beta max(0, cos(g_n, g_a)) g_n + (1 - beta) g_a

where g_n and g_a are the changes of that tensor in the copy and in the network since the beginning of the epoch.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from ..search.attack import Batch

START, COPY, STATE = "epoch start", "natural copy", "natural optimiser"  # in the memory of the training

Memory = dict[str, Tensor]


def begin(module: nn.Module, memory: Memory) -> None:
    """Remembers the network and copies it, at the beginning of an epoch; within an epoch it does nothing."""
    if _remembered(memory, START):
        return
    for name, tensor in _tensors(module).items():
        memory[f"{START}.{name}"] = tensor.detach().clone()
        memory[f"{COPY}.{name}"] = tensor.detach().clone()


def learn(
    module: nn.Module,
    memory: Memory,
    batch: Batch,
    optimiser_for: Callable[[Iterable[Tensor]], Optimizer],
    lr: float,
) -> None:
    """One optimiser step of the copy on the images as they are. The optimiser starts with the epoch."""
    copy = {name: tensor.to(batch.x.device) for name, tensor in _remembered(memory, COPY).items()}
    weights = {name: copy[name].requires_grad_() for name, _ in module.named_parameters()}
    optimiser = optimiser_for(weights.values())
    for group in optimiser.param_groups:
        group["lr"] = lr
    for name, weight in weights.items():
        if known := _remembered(memory, f"{STATE}.{name}"):
            optimiser.state[weight] = {
                key: value.to(weight.device) if value.shape == weight.shape else value for key, value in known.items()
            }
    with torch.enable_grad():
        loss = F.cross_entropy(functional_call(module.train(), copy, (batch.x,)), batch.y)
        torch.autograd.backward(loss)
    optimiser.step()
    memory.update({f"{COPY}.{name}": tensor.detach() for name, tensor in copy.items()})
    for name, weight in weights.items():
        for key, value in optimiser.state[weight].items():
            if value is not None:
                memory[f"{STATE}.{name}.{key}"] = value


def fuse(module: nn.Module, memory: Memory, beta: float) -> None:
    """Takes the update of the copy into that of the network, and forgets the copy.

    The statistics of batch-norm are fused as the weights are, as in the authors' code; counters are not.
    """
    start, copy = _remembered(memory, START), _remembered(memory, COPY)
    with torch.no_grad():
        for name, tensor in _tensors(module).items():
            if tensor.is_floating_point() and tensor.ndim:
                before = start[name].to(tensor.device)
                natural, adversarial = copy[name].to(tensor.device) - before, tensor - before
                tensor.copy_(before + projected(natural, adversarial, beta))
    for key in [key for key in memory if key.startswith((f"{START}.", f"{COPY}.", f"{STATE}."))]:
        del memory[key]


def projected(natural: Tensor, adversarial: Tensor, beta: float) -> Tensor:
    """The update of a tensor, from those of natural and adversarial training."""
    cosine = F.cosine_similarity(natural.flatten(), adversarial.flatten(), dim=0)
    return beta * cosine.clamp(min=0) * natural + (1 - beta) * adversarial


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The weights and the buffers of a network by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _remembered(memory: Memory, what: str) -> dict[str, Tensor]:
    """The tensors of this kind by name."""
    return {key[len(what) + 1 :]: value for key, value in memory.items() if key.startswith(f"{what}.")}
