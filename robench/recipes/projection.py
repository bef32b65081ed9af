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
from .data_parallel import ALONE, Ranks, average_gradients
from .memory import Memory, forget, resume, store, store_optimiser, stored

START, COPY, STATE = "epoch start", "natural copy", "natural optimiser"  # in the memory of the training


def begin(module: nn.Module, memory: Memory) -> None:
    """Remembers the network and copies it, at the beginning of an epoch; within an epoch it does nothing."""
    if not stored(memory, START):
        for group in (START, COPY):
            store(memory, group, {name: tensor.detach().clone() for name, tensor in _tensors(module).items()})


def learn(
    module: nn.Module,
    memory: Memory,
    batch: Batch,
    optimiser_for: Callable[[Iterable[Tensor]], Optimizer],
    lr: float,
    clip: float = 0.0,
    ranks: Ranks = ALONE,
) -> None:
    """One optimiser step of the copy on the images as they are. The optimiser starts with the epoch."""
    copy = {name: tensor.to(batch.x.device) for name, tensor in stored(memory, COPY).items()}
    weights = {name: copy[name].requires_grad_() for name, _ in module.named_parameters()}
    optimiser = optimiser_for(weights.values())
    for group in optimiser.param_groups:
        group["lr"] = lr
    resume(optimiser, memory, STATE, weights)
    with torch.enable_grad():
        loss = F.cross_entropy(functional_call(module.train(), copy, (batch.x,)), batch.y)
        torch.autograd.backward(loss)
    average_gradients(ranks, weights.values(), (copy[name] for name, _ in module.named_buffers()))
    if clip:
        nn.utils.clip_grad_norm_(weights.values(), clip)
    optimiser.step()
    store(memory, COPY, copy)
    store_optimiser(optimiser, memory, STATE, weights)


def fuse(module: nn.Module, memory: Memory, beta: float) -> None:
    """Takes the update of the copy into that of the network, and forgets the copy.

    The statistics of batch-norm are fused as the weights are, as in the authors' code; counters are not.
    """
    start, copy = stored(memory, START), stored(memory, COPY)
    with torch.no_grad():
        for name, tensor in _tensors(module).items():
            if tensor.is_floating_point() and tensor.ndim:
                before = start[name].to(tensor.device)
                natural, adversarial = copy[name].to(tensor.device) - before, tensor - before
                tensor.copy_(before + projected(natural, adversarial, beta))
    forget(memory, START, COPY, STATE)


def projected(natural: Tensor, adversarial: Tensor, beta: float) -> Tensor:
    """The update of a tensor, from those of natural and adversarial training."""
    cosine = F.cosine_similarity(natural.flatten(), adversarial.flatten(), dim=0)
    return beta * cosine.clamp(min=0) * natural + (1 - beta) * adversarial


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The weights and the buffers of a network by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
