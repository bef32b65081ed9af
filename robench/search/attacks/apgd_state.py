"""What both variants of Auto-PGD share: the point they query next, and the best point so far."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from ...problem.shapes import Inputs, Mask, PerExample, choose
from ..attack import Seen, State


@dataclass(frozen=True)
class APGDState(State):
    """The current point, the best point of the stage, and the step size. Only the l_1 variant has several stages."""

    seen: Int[Tensor, "B"]  # points of this stage that the model has answered
    previous: Inputs  # where the last step began
    # The best point of the stage
    top: Inputs
    top_grad: Inputs
    top_loss: PerExample
    step_size: PerExample  # in radii of the stage


S = TypeVar("S", bound=APGDState)


def updated(state: S, seen: Seen) -> S:
    """The state after the model's answer to the current point: the best point may be a new one."""
    higher = seen.loss > state.top_loss
    return replace(
        state,
        seen=state.seen + 1,
        top=choose(higher, state.delta, state.top),
        top_grad=choose(higher, seen.grad, state.top_grad),
        top_loss=torch.where(higher, seen.loss, state.top_loss),
    )


def next_origin(state: APGDState, seen: Seen, restart: Mask) -> tuple[Inputs, Inputs]:
    """The point where the next step starts, and its gradient: the best point for `restart`, else the current one."""
    return choose(restart, state.top, state.delta), choose(restart, state.top_grad, seen.grad)


@lru_cache(maxsize=64)
def on_device(numbers: tuple[int, ...] | tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A small table as a tensor, made once: a copy in every step would stall the device and break CUDA graphs."""
    return torch.tensor(numbers, dtype=dtype, device=device)
