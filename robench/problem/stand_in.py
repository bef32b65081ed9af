"""Values with the derivative of another function."""

from typing import Any

import torch
from torch import Tensor

original_apply: Any = torch.autograd.Function.__dict__["apply"]
"""`torch.autograd.Function.apply` as torch has it: `repairs` replaces it while a model runs."""

Slope = float | Tensor
"""A derivative, for each number or for all."""


class _As(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, slope: Slope) -> Tensor:
        ctx.dtype, ctx.slope = source.dtype, slope
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return (grads[0].to(ctx.dtype) * ctx.slope), None, None


class _Also(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, source: Tensor, slope: Slope) -> Tensor:
        ctx.dtype, ctx.slope = source.dtype, slope
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return grads[0], (grads[0].to(ctx.dtype) * ctx.slope), None


class _Becomes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, slope: Slope) -> Tensor:
        ctx.mark_dirty(source)
        ctx.slope = slope
        return source.copy_(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.slope, None, None


def stands_for(source: Tensor, value: Tensor, slope: Slope = 1.0) -> Tensor:
    """The value, with the derivative `slope` with respect to `source`, which has its shape."""
    made: Tensor = original_apply.__func__(_As, source, value.detach(), slope)
    return made


def also(value: Tensor, source: Tensor, slope: Slope = 1.0) -> Tensor:
    """The value, with its own derivative and that of `source`, which has its shape, times `slope`."""
    made: Tensor = original_apply.__func__(_Also, value, source, slope)
    return made


def becomes(source: Tensor, value: Tensor, slope: Slope = 1.0) -> Tensor:
    """`source`, which is no leaf, with the value written into it, and the derivative `slope` to what it was before."""
    made: Tensor = original_apply.__func__(_Becomes, source, value, slope)
    return made
