"""A layer with exact outputs, and the gradient that it has with weights rounded to bfloat16."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WORTH = 100  # products for each number of a layer's input, below which conversions use up the gain


def exact_outputs(layer: nn.Module, outputs: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A layer with these outputs, and the gradient that it has with rounded weights."""
    rough = copy.deepcopy(layer)
    round_weights(rough)
    gradient = _gradient(rough)
    return lambda x: _ExactOutputs.apply(x, outputs, gradient)  # type: ignore[no-untyped-call]


Gradient = Callable[[Tensor, Tensor], Tensor]
"""The gradient with respect to a layer's input, from that of its output and the input itself."""


class _ExactOutputs(torch.autograd.Function):
    """A function whose gradient is computed by another rule than that of its outputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, outputs: Callable[[Tensor], Tensor], gradient: Gradient) -> Tensor:
        ctx.save_for_backward(x)
        ctx.gradient = gradient
        return outputs(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return ctx.gradient(grad, x).to(x.dtype), None, None


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a convolution or a matrix product with weights of its own, and nothing else."""
    if "forward" in vars(layer) or layer._parameters.get("weight") is None:
        return False
    if type(layer) is nn.Linear:
        return True
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def is_worth(layer: nn.Module) -> bool:
    """Whether the gradient of a plain layer takes less time with rounded weights: by a count, not by a clock."""
    weight = layer.get_parameter("weight")
    if isinstance(layer, nn.Conv2d):
        return weight.numel() >= WORTH * layer.in_channels * layer.stride[0] * layer.stride[1]
    return weight.shape[0] >= WORTH


def _gradient(rough: nn.Module) -> Gradient:
    """The gradient of a layer with rounded weights. Of a plain layer it needs no forward pass."""
    if is_plain(rough):
        weight = rough.get_parameter("weight")
        if isinstance(rough, nn.Conv2d):
            return _of_convolution(rough, weight)
        return lambda grad, x: grad.bfloat16() @ weight

    def by_a_forward_pass(grad: Tensor, x: Tensor) -> Tensor:
        with torch.enable_grad(), torch.autocast(x.device.type, dtype=torch.bfloat16):
            leaf = x.detach().requires_grad_()
            outputs: Tensor = rough.forward(leaf)
            return torch.autograd.grad(outputs, leaf, grad.to(outputs.dtype))[0]

    return by_a_forward_pass


def _of_convolution(rough: nn.Conv2d, weight: Tensor) -> Gradient:
    """The gradient of a convolution.

    On a CPU one with a single input channel is faster as a product and a sum over the windows: libraries compute at
    least sixteen channels.
    """
    stride, padding, dilation, groups = rough.stride, rough.padding, rough.dilation, rough.groups
    assert not isinstance(padding, str), "a plain convolution has numbers for its padding"
    if rough.in_channels == 1 and weight.device.type == "cpu":
        columns = weight.flatten(1).t().contiguous()
        kernel = weight.shape[2:]

        def over_windows(grad: Tensor, x: Tensor) -> Tensor:
            windows = (columns @ grad.bfloat16().flatten(2)).float()
            return nn.functional.fold(windows, x.shape[2:], kernel, dilation, padding, stride)

        return over_windows

    def gradient(grad: Tensor, x: Tensor) -> Tensor:
        of_shape = torch.empty_like(x, dtype=torch.bfloat16)  # its memory format becomes that of the gradient
        args = of_shape, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        found: Tensor = torch.ops.aten.convolution_backward(grad.bfloat16(), *args)[0]
        return found

    return gradient


def round_weights(layer: nn.Module) -> None:
    """Round the weights and the biases of a layer."""
    for name, values in list(layer.named_parameters(recurse=False)):
        layer.register_parameter(name, nn.Parameter(values.bfloat16(), requires_grad=False))  # others may share it
