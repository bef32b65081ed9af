"""A value with the derivative of another function."""

from typing import Any

import torch
from torch import Tensor

original_apply: Any = torch.autograd.Function.__dict__["apply"]
"""`torch.autograd.Function.apply` as torch has it: `repairs` replaces it while a model runs."""


class _As(torch.autograd.Function):
    """Its value is `value`; its gradient goes to `source`, times `slope`."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, slope: float | Tensor) -> Tensor:
        ctx.dtype, ctx.slope = source.dtype, slope
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return (grads[0].to(ctx.dtype) * ctx.slope), None, None


def stands_for(source: Tensor, value: Tensor, slope: float | Tensor = 1.0) -> Tensor:
    """The value, with the derivative `slope` with respect to `source`, which has its shape."""
    stand_in: Tensor = original_apply.__func__(_As, source, value.detach(), slope)
    return stand_in


class _InPlace(torch.autograd.Function):
    """`source` with another value, written into it; the gradient goes to what it was, times `slope`."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, slope: float | Tensor) -> Tensor:
        ctx.mark_dirty(source)
        ctx.slope = slope
        return source.copy_(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.slope, None, None


def becomes(source: Tensor, value: Tensor, slope: float | Tensor = 1.0) -> Tensor:
    """`source`, which is no leaf, with the value written into it, and the derivative `slope` to what it was before."""
    changed: Tensor = original_apply.__func__(_InPlace, source, value, slope)
    return changed
