"""A layer with exact outputs, and the gradient that it has with weights rounded to bfloat16."""

import copy
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

WORTH = 100  # products for each number of a layer's input, below which conversions use up the gain


def exact_outputs(layer: nn.Conv2d | nn.Linear, outputs: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A plain layer with these outputs, and the gradient that it has with rounded weights."""
    rough = copy.deepcopy(layer)
    round_weights(rough)
    gradient = _of_convolution(rough) if isinstance(rough, nn.Conv2d) else _of_product(rough)

    def forward(input: Tensor) -> Tensor:  # noqa: A002 - models may name it, as in torch
        result: Tensor = _ExactOutputs.apply(input, outputs, gradient)  # type: ignore[no-untyped-call]
        return result

    return forward


Gradient = Callable[[Tensor, Tensor], Tensor]
"""The gradient with respect to a layer's input, from that of its output and a tensor like the input, without values."""


class _ExactOutputs(torch.autograd.Function):
    """A linear function whose gradient is computed by another rule than that of its outputs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, outputs: Callable[[Tensor], Tensor], gradient: Gradient) -> Tensor:
        result = outputs(x)
        return result.clone() if result._is_view() else result  # the model may write into it

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.gradient = inputs
        ctx.like = torch.empty_like(x, device="meta")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient(grad, ctx.like).to(ctx.like.dtype), None, None


def is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d | nn.Linear]:
    """Whether a layer is a convolution or a matrix product with weights of its own, and nothing else."""
    if "forward" in vars(layer) or layer._parameters.get("weight") is None:
        return False
    if type(layer) is nn.Linear:
        return True
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def is_worth(layer: nn.Conv2d | nn.Linear) -> bool:
    """Whether the gradient of a plain layer takes less time with rounded weights: by a count, not by a clock."""
    if isinstance(layer, nn.Linear):
        return layer.out_features >= WORTH
    return layer.weight.numel() >= WORTH * layer.in_channels * layer.stride[0] * layer.stride[1]


def _of_product(rough: nn.Linear) -> Gradient:
    """The gradient of a matrix product."""
    weight = rough.weight
    return lambda grad, like: grad.bfloat16() @ weight


def _of_convolution(rough: nn.Conv2d) -> Gradient:
    """The gradient of a convolution.

    On a CPU one with a single input channel is faster as a product and a sum over the windows: libraries compute at
    least sixteen channels.
    """
    weight, stride, padding, dilation, groups = rough.weight, rough.stride, rough.padding, rough.dilation, rough.groups
    assert not isinstance(padding, str), "a plain convolution has numbers for its padding"
    columns, kernel = weight.flatten(1).t().contiguous(), weight.shape[2:]

    def over_windows(grad: Tensor, like: Tensor) -> Tensor:
        windows = (columns @ grad.bfloat16().flatten(2)).float()
        return nn.functional.fold(windows, like.shape[2:], kernel, dilation, padding, stride)

    def by_library(grad: Tensor, like: Tensor) -> Tensor:
        # Of the input only the shape is read, and the memory format, which becomes that of the gradient.
        x = torch.empty_like(like, dtype=torch.bfloat16, device=grad.device)
        args = x, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        found: Tensor = torch.ops.aten.convolution_backward(grad.bfloat16(), *args)[0]
        return found

    of_batch = over_windows if rough.in_channels == 1 and weight.device.type == "cpu" else by_library

    def gradient(grad: Tensor, like: Tensor) -> Tensor:
        return of_batch(grad, like) if grad.dim() == 4 else of_batch(grad[None], like[None])[0]

    return gradient


def round_weights(layer: nn.Module) -> None:
    """Round the weights and the biases of a layer."""
    for name, values in list(layer.named_parameters(recurse=False)):
        layer.register_parameter(name, nn.Parameter(values.bfloat16(), requires_grad=False))  # others may share it
