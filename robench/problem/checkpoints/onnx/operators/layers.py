"""Operators with weights: convolutions, dense layers and normalisation."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import LISTED, Layer, Maker, axis_of, compute
from ..node import Node
from .padding import Padding, padded, padding_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Padded(nn.Module):
    """A layer whose input is padded with zeros, unequally on both sides or by its own size."""

    def __init__(self, layer: nn.Module, padding: Padding):
        super().__init__()
        self.layer = layer
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(padded(x, self.padding.sides(x.shape[2:]), 0.0))
        return result


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Normalisation with stored statistics, of images of any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (torch's own name)
        """Accepts every number of dimensions."""


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)


def _windows(node: Node, weight: Tensor) -> Padding:
    """The windows of a convolution with these weights. Raises Refused if its settings do not fit them."""
    rank = weight.ndim - 2
    if not 1 <= rank <= 3:
        raise node.refused(f"has weights of {weight.ndim} dimensions")
    kernel = node.integers("kernel_shape", weight.shape[2:])
    if kernel != tuple(weight.shape[2:]):
        raise node.refused("has another kernel_shape than its weights")
    strides, dilations = (node.integers(name, [1] * rank) for name in ("strides", "dilations"))
    for values in (strides, dilations):
        if len(values) != rank or min(values) < 1:
            raise node.refused(f"has {list(values)} for strides or dilations")
    return padding_of(node, kernel, strides, dilations)


def _conv(node: Node) -> Layer:
    weight = node.weight(1)
    padding = _windows(node, weight)
    rank, group = len(padding.kernel), node.integer("group", 1)
    equal = padding.symmetric()
    with torch.device("meta"):  # its weights are replaced
        layer = CONVOLUTIONS[rank - 1](
            weight.shape[1] * group,
            weight.shape[0],
            padding.kernel,  # type: ignore[arg-type]
            stride=padding.strides,  # type: ignore[arg-type]
            padding=equal or (0,) * rank,  # type: ignore[arg-type]
            dilation=padding.dilations,  # type: ignore[arg-type]
            groups=group,
            bias=node.has(2),
        )
    layer.weight = _frozen(weight)
    if node.has(2):
        layer.bias = _frozen(_vector(node, 2, weight.shape[0]))
    return Layer(layer if equal is not None else Padded(layer, padding), takes=1)


class Cropped(nn.Module):
    """A layer whose result loses these pixels before and behind each axis."""

    def __init__(self, layer: nn.Module, before: Sequence[int], behind: Sequence[int]):
        super().__init__()
        self.layer = layer
        self.before, self.behind = tuple(before), tuple(behind)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        for axis, (before, behind) in enumerate(zip(self.before, self.behind, strict=True), start=2):
            result = result.narrow(axis, before, result.shape[axis] - before - behind)
        return result


def _conv_transpose(node: Node) -> Layer:
    weight = node.weight(1)
    padding = _windows(node, weight)
    rank, group = len(padding.kernel), node.integer("group", 1)
    more = node.integers("output_padding", [0] * rank)
    if len(more) != rank or min(more) < 0:
        raise node.refused(f"has {list(more)} for output_padding")
    if padding.auto or node.integers("output_shape"):
        raise node.refused("has a padding that depends on the size of the result")
    with torch.device("meta"):  # its weights are replaced
        layer = TRANSPOSED[rank - 1](
            weight.shape[0],
            weight.shape[1] * group,
            padding.kernel,  # type: ignore[arg-type]
            stride=padding.strides,  # type: ignore[arg-type]
            padding=padding.symmetric() or (0,) * rank,  # type: ignore[arg-type]
            output_padding=more,  # type: ignore[arg-type]
            dilation=padding.dilations,  # type: ignore[arg-type]
            groups=group,
            bias=node.has(2),
        )
    layer.weight = _frozen(weight)
    if node.has(2):
        layer.bias = _frozen(_vector(node, 2, weight.shape[1] * group))
    equal = padding.symmetric() is not None
    return Layer(layer if equal else Cropped(layer, padding.before, padding.behind), takes=1)


def _vector(node: Node, place: int, size: int) -> Tensor:
    vector = node.weight(place)
    if tuple(vector.shape) != (size,):
        raise node.refused(f"has a vector of shape {list(vector.shape)} for {size} channels")
    return vector


def _dense(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A dense layer with these weights, (outputs, inputs)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = _frozen(weight.contiguous())
    if bias is not None:
        layer.bias = _frozen(bias.contiguous())
    return layer


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices, or of stacks of them. Raises ValueError for numbers of two types."""
    if a.dtype != b.dtype:
        kinds = " and ".join(str(one.dtype).removeprefix("torch.") for one in (a, b))
        raise ValueError(f"{kinds} cannot be multiplied as matrices")
    return a @ b


def _matmul(node: Node) -> Layer:
    weight = node.constant(1)
    if weight is not None and weight.ndim == 2 and weight.is_floating_point() and node.constant(0) is None:
        return Layer(_dense(weight.T, None), takes=1)
    return compute(matmul)


def gemm(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float, turned: tuple[bool, bool]) -> Tensor:
    """The product of two matrices, each turned if so noted, times alpha, plus c times beta."""
    product = alpha * matmul(a.T if turned[0] else a, b.T if turned[1] else b)
    return product if c is None else product + beta * c


def _gemm(node: Node) -> Layer:
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    turned = bool(node.integer("transA", 0)), bool(node.integer("transB", 0))
    weight, bias = node.constant(1), node.constant(2)
    dense = weight is not None and weight.ndim == 2 and not turned[0] and node.constant(0) is None
    if not dense or (node.has(2) and bias is None):
        return compute(_gemm_of, alpha=alpha, beta=beta, turned=turned)
    assert weight is not None
    weight = alpha * (weight if turned[1] else weight.T)
    if bias is not None:
        if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1):
            return compute(_gemm_of, alpha=alpha, beta=beta, turned=turned)
        bias = (beta * bias.reshape(-1)).expand(weight.shape[0])
    return Layer(_dense(weight, bias), takes=1)


def _gemm_of(a: Tensor, b: Tensor, c: Tensor | None = None, **settings: object) -> Tensor:
    return gemm(a, b, c, **settings)  # type: ignore[arg-type]


def _batch_norm(node: Node) -> Layer:
    node.must_be("training_mode", 0, "is in training mode")
    node.must_be("spatial", 1, "has statistics for each pixel")
    node.number("momentum", 0.9)  # of training
    features = len(node.weight(1))
    scale, bias, mean, variance = (_vector(node, place, features) for place in (1, 2, 3, 4))
    layer = BatchNorm(features, eps=node.number("epsilon", 1e-5), device="meta")
    layer.weight, layer.bias = _frozen(scale), _frozen(bias)
    layer.running_mean, layer.running_var = mean, variance
    layer.num_batches_tracked = torch.tensor(0)
    return Layer(layer.eval(), takes=1)


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int, epsilon: float) -> Tensor:
    """The numbers from an axis on, with mean 0 and variance 1, then scaled and shifted."""
    normal = F.layer_norm(x, x.shape[axis_of(axis, x.ndim) :], eps=epsilon) * scale
    return normal if bias is None else normal + bias


def rms_norm(x: Tensor, scale: Tensor, *, axis: int, epsilon: float) -> Tensor:
    """The numbers from an axis on, divided by the root of their mean square, then scaled."""
    return F.rms_norm(x, x.shape[axis_of(axis, x.ndim) :], eps=epsilon) * scale


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float) -> Tensor:
    """Each channel of each image with mean 0 and variance 1, then scaled and shifted."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def group_norm(x: Tensor, scale: Tensor, bias: Tensor, *, groups: int, epsilon: float) -> Tensor:
    """The same for groups of channels."""
    return F.group_norm(x, groups, scale, bias, epsilon)


def local_response(x: Tensor, *, size: int, alpha: float, beta: float, bias: float) -> Tensor:
    """Each number divided by a power of the squares in neighbouring channels, as in AlexNet."""
    return F.local_response_norm(x, size, alpha, beta, bias)


def _layer_norm(node: Node) -> Layer:
    node.must_be("stash_type", 1, "computes in another type than float32")
    return compute(layer_norm, axis=node.integer("axis", -1), epsilon=node.number("epsilon", 1e-5))


def _rms_norm(node: Node) -> Layer:
    node.must_be("stash_type", 1, "computes in another type than float32")
    return compute(rms_norm, axis=node.integer("axis", -1), epsilon=node.number("epsilon", 1e-5))


def _group_norm(node: Node) -> Layer:
    node.must_be("stash_type", 1, "computes in another type than float32")
    if node.opset < 21:
        raise node.refused("has a scale for each group, not each channel (opset below 21)")
    return compute(group_norm, groups=node.integer("num_groups", 1), epsilon=node.number("epsilon", 1e-5))


def _local_response(node: Node) -> Layer:
    size = node.integer("size", 1)
    if size % 2 == 0:
        raise node.refused("has an even size")
    if size > LISTED:  # torch pads the channels by it
        raise node.refused(f"has size={size}")
    alpha, beta, bias = node.number("alpha", 1e-4), node.number("beta", 0.75), node.number("bias", 1.0)
    return compute(local_response, size=size, alpha=alpha, beta=beta, bias=bias)


def einsum(*given: Tensor, equation: str) -> Tensor:
    """The sum of products that an equation such as `bij,bjk->bik` describes."""
    return torch.einsum(equation, *given)


def _einsum(node: Node) -> Layer:
    if len(node.inputs) > 2:  # what torch computes on the way could be larger than all inputs and the result
        raise node.refused(f"has {len(node.inputs)} inputs")
    return compute(einsum, equation=node.text("equation", ""))


LAYERS: Mapping[str, Maker] = {
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": lambda node: compute(instance_norm, epsilon=node.number("epsilon", 1e-5)),
    "LRN": _local_response,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "RMSNormalization": _rms_norm,
}
