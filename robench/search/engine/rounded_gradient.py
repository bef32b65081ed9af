"""A layer with exact outputs, and the gradient that it has with weights rounded to bfloat16."""

import copy
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

WORTH = 100  # products for each number of a layer's input, below which conversions use up the gain


def exact_outputs(layer: nn.Conv2d | nn.Linear, outputs: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A plain layer with these outputs, and the gradient that it has with rounded weights.

    Where the model has replaced the layer's weights, or written into them, the gradient is that of `outputs`.
    """
    rough = copy.deepcopy(layer)
    round_weights(rough)
    gradient = _of_convolution(rough) if isinstance(rough, nn.Conv2d) else _of_product(rough)
    weight = layer.weight
    version = _version(weight)

    def forward(input: Tensor) -> Tensor:  # noqa: A002 - models may name it, as in torch
        if layer.weight is not weight or _version(weight) != version:
            return outputs(input)
        result: Tensor = _ExactOutputs.apply(input, outputs, gradient)  # type: ignore[no-untyped-call]
        return result

    return forward


def _version(weight: Tensor) -> int:
    """How often a tensor was written into, as far as torch counts it."""
    return 0 if weight.is_inference() else weight._version


Gradient = Callable[[Tensor, Tensor], Tensor]
"""The gradient of a layer's input, from that of its output and a bfloat16 tensor of the input's form, any values."""


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
        ctx.form, ctx.dtype = (x.shape, x.stride()), x.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        like = torch.empty_strided(*ctx.form, dtype=torch.bfloat16, device=grad.device)
        return ctx.gradient(grad, like).to(ctx.dtype), None, None


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
    """The gradient of a convolution, also of one image without a batch."""
    on_cpu = rough.weight.device.type == "cpu"
    of_batch = _over_windows(rough) if rough.in_channels == 1 and on_cpu else _by_library(rough)
    return lambda grad, like: of_batch(grad, like) if grad.dim() == 4 else of_batch(grad[None], like[None])[0]


def _over_windows(rough: nn.Conv2d) -> Gradient:
    """The gradient of a convolution with one input channel, as a product and a sum over the windows.

    On a CPU this is faster than the library, which computes at least sixteen channels.
    """
    columns = rough.weight.flatten(1).t().contiguous()

    def gradient(grad: Tensor, like: Tensor) -> Tensor:
        assert not isinstance(rough.padding, str), "a plain convolution has numbers for its padding"
        windows = (columns @ grad.bfloat16().flatten(2)).float()
        shape = like.shape[2:], rough.weight.shape[2:]
        return nn.functional.fold(windows, *shape, rough.dilation, rough.padding, rough.stride)

    return gradient


def _by_library(rough: nn.Conv2d) -> Gradient:
    """The gradient of a convolution, as torch computes it.

    Of the input it reads only the shape, and the memory format, which becomes that of the gradient.
    """
    options = rough.stride, rough.padding, rough.dilation, False, [0, 0], rough.groups, [True, False, False]

    def gradient(grad: Tensor, like: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.convolution_backward(grad.bfloat16(), like, rough.weight, None, *options)[0]
        return found

    return gradient


def round_weights(layer: nn.Module) -> None:
    """Round the weights and the biases of a layer."""
    for name, values in list(layer.named_parameters(recurse=False)):
        layer.register_parameter(name, nn.Parameter(values.bfloat16(), requires_grad=False))  # others may share it
