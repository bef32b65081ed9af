"""Plain chains of layers, written as `chain:conv4/2p1,relu,conv4/2p1,relu,flatten,fc,relu,fc`.

A window is written as kernel/stride p padding: `conv4/2p1`, `maxpool3/2`, `conv3x5p1x2`. The stride of a convolution is
1 if it is not written, that of pooling the kernel, and the padding 0. Widths come from the weights, so a chain and its
weights define a network. It is text without code: cards and run files may name one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from ...errors import UserError, counted, unknown

PREFIX = "chain:"
EXAMPLE = "'chain:conv4/2p1,relu,conv4/2p1,relu,flatten,fc,relu,fc'"
SIZE = r"\d{1,4}(?:x\d{1,4})?"
WINDOW = re.compile(rf"(?P<kernel>{SIZE})(?:/(?P<stride>{SIZE}))?(?:p(?P<padding>{SIZE}))?")
LONGEST = 200  # layers
LARGEST = 1000  # kernel, stride and padding, in pixels

Pair = tuple[int, int]
Shape = tuple[int, ...]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leakyrelu": nn.LeakyReLU,
    "relu6": nn.ReLU6,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
SLOPE = "leakyrelu"  # the activation with a number: the slope below zero, as in leakyrelu0.2
POOLS: Mapping[str, Callable[..., nn.Module]] = {"maxpool": nn.MaxPool2d, "avgpool": nn.AvgPool2d}
WEIGHTED = ("conv", "fc", "bn")
"""The layers with weights: 2-D convolution, dense layer, batch norm."""
OTHERS = ("flatten", "dropout", "gap")
"""Dropout does nothing in an evaluation, and `gap` is global average pooling."""
NAMES = (*WEIGHTED, *OTHERS, *POOLS, *ACTIVATIONS)
PLAIN: Mapping[str, Callable[[], nn.Module]] = {
    **ACTIVATIONS,
    "flatten": nn.Flatten,
    "dropout": nn.Dropout,
    "gap": partial(nn.AdaptiveAvgPool2d, 1),
}


@dataclass(frozen=True)
class Window:
    """Kernel, stride and padding of a convolution or of pooling, each as (height, width) in pixels."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def output(self, size: Pair) -> Pair:
        """The size of the result for an input of this size; it may be 0 or below."""
        height, width = (
            (n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, self.kernel, self.stride, self.padding, strict=True)
        )
        return height, width


@dataclass(frozen=True)
class Layer:
    """One layer of a chain, without its weights."""

    kind: str  # one of NAMES
    window: Window | None = None  # of convolution and pooling
    slope: float | None = None  # of leakyrelu, if it is not 0.01

    @property
    def weighted(self) -> bool:
        """Whether it has weights."""
        return self.kind in WEIGHTED

    def __str__(self) -> str:
        if self.slope is not None:
            return f"{self.kind}{self.slope:g}"
        if self.window is None:
            return self.kind
        usual = (1, 1) if self.kind == "conv" else self.window.kernel
        stride = "" if self.window.stride == usual else f"/{_pair(self.window.stride)}"
        padding = "" if self.window.padding == (0, 0) else f"p{_pair(self.window.padding)}"
        return f"{self.kind}{_pair(self.window.kernel)}{stride}{padding}"

    def about(self, shapes: Mapping[str, Shape]) -> str:
        """The layer in words, with the width that its weights have: conv 16 4x4/2 pad 1."""
        if self.window is None:
            return f"{self.kind} {shapes['weight'][0]}" if self.kind == "fc" else str(self)
        width = f" {shapes['weight'][0]}" if self.weighted else ""
        stride = "" if self.window.stride == (1, 1) else f"/{_pair(self.window.stride)}"
        padding = "" if self.window.padding == (0, 0) else f" pad {_pair(self.window.padding)}"
        return f"{self.kind}{width} {'x'.join(map(str, self.window.kernel))}{stride}{padding}"


Chain = tuple[Layer, ...]


def is_chain(text: str) -> bool:
    """Whether the text of an architecture is that of a chain."""
    return text.strip().startswith(PREFIX)


def parse(text: str) -> Chain:
    """The layers in a text. Raises UserError if it cannot be read."""
    words = [word.strip() for word in text.strip().removeprefix(PREFIX).lower().split(",")]
    if len(words) > LONGEST:
        raise UserError(f"the chain has {len(words)} layers, more than {LONGEST}; name it with --arch file.py:factory")
    return tuple(_layer(word, text) for word in words)


def written(chain: Chain) -> str:
    """The text of a chain; equal chains have equal texts."""
    return PREFIX + ",".join(map(str, chain))


def about(chain: Chain, weights: Sequence[Mapping[str, Shape]]) -> str:
    """The chain in words, without what every reader expects; `weights` are the shapes of each layer with weights."""
    left = iter(weights)
    return ", ".join(layer.about(next(left) if layer.weighted else {}) for layer in chain)


def build(chain: Chain, weights: Sequence[Mapping[str, Shape]], shape: Shape) -> nn.Sequential:
    """The network with random weights for images of `shape`; `weights` are the shapes in each layer with weights.

    Raises UserError if they do not fit.
    """
    count = sum(layer.weighted for layer in chain)
    if count != len(weights):
        raise UserError(f"the chain has {counted(count, 'layer')} with weights, and the file has {len(weights)}")
    left, flow, modules = iter(weights), Flow(shape[0], (shape[1], shape[2])), []
    for number, layer in enumerate(chain):
        shapes = next(left) if layer.weighted else {}
        try:
            after = flow.after(layer, shapes)
        except UserError as error:
            raise UserError(f"layer {number} of the chain, {layer}: {error}") from None
        modules.append(module_of(layer, shapes, flat=flow.size is None))
        flow = after
    if flow.size is not None:
        raise UserError("the chain ends with images, not with one number for each class; write flatten at its end")
    return nn.Sequential(*modules)


def module_of(layer: Layer, shapes: Mapping[str, Shape], *, flat: bool) -> nn.Module:
    """The layer as a module with weights of these shapes; `flat` if it gets features without a place."""
    weight, bias, window = shapes.get("weight", ()), "bias" in shapes, layer.window
    if window is not None and layer.kind == "conv":
        return nn.Conv2d(weight[1], weight[0], window.kernel, window.stride, window.padding, bias=bias)
    if window is not None:
        return POOLS[layer.kind](window.kernel, window.stride, window.padding)
    if layer.kind == "fc":
        return nn.Linear(weight[1], weight[0], bias=bias)
    if layer.kind == "bn":
        return (nn.BatchNorm1d if flat else nn.BatchNorm2d)(shapes["running_mean"][0], affine=bool(weight))
    return nn.LeakyReLU(layer.slope) if layer.slope is not None else PLAIN[layer.kind]()


@dataclass(frozen=True)
class Flow:
    """What a layer gets: maps of this size, or features without one."""

    channels: int
    size: Pair | None

    def after(self, layer: Layer, shapes: Mapping[str, Shape]) -> "Flow":
        """What the next layer gets. Raises UserError if this layer, with weights of these shapes, does not fit."""
        if layer.kind == "conv":
            return self._convolved(layer, shapes)
        if layer.kind == "fc":
            return self._dense(shapes)
        if layer.kind == "bn":
            if shapes.get("running_mean", (0,)) != (self.channels,):
                raise UserError(f"the file has no batch norm of {counted(self.channels, 'channel')} here")
            return self
        if layer.kind == "flatten":
            return Flow(self.channels * (self.size[0] * self.size[1] if self.size else 1), None)
        if layer.kind == "gap":
            return Flow(self.channels, (1, 1)) if self._maps() else self
        if layer.window is not None:
            if any(2 * p > k for p, k in zip(layer.window.padding, layer.window.kernel, strict=True)):
                raise UserError("the padding of pooling is half of its kernel at most")
            return Flow(self.channels, self._windowed(layer.window))
        return self

    def _convolved(self, layer: Layer, shapes: Mapping[str, Shape]) -> "Flow":
        shape, window = shapes.get("weight", ()), layer.window
        assert window is not None, "a convolution has a window"
        if len(shape) != 4:
            raise UserError("the file has no convolution here")
        if shape[2:] != window.kernel:
            raise UserError(f"its kernel in the file is {'x'.join(map(str, shape[2:]))}")
        if self.channels != shape[1]:
            raise UserError(f"its weights are for {shape[1]} channels, and it gets {self.channels}")
        return Flow(shape[0], self._windowed(window))

    def _dense(self, shapes: Mapping[str, Shape]) -> "Flow":
        shape = shapes.get("weight", ())
        if len(shape) != 2:
            raise UserError("the file has no dense layer here")
        if self.size is not None:
            raise UserError("it gets images; write flatten before it")
        if self.channels != shape[1]:
            raise UserError(f"its weights are for {counted(shape[1], 'number')}, and it gets {self.channels:,}")
        return Flow(shape[0], None)

    def _windowed(self, window: Window) -> Pair:
        size = self._maps()
        output = window.output(size)
        if min(output) < 1:
            raise UserError(f"its kernel is larger than the {size[0]}x{size[1]} pixels that it gets")
        return output

    def _maps(self) -> Pair:
        if self.size is None:
            raise UserError("it needs images, and comes after flatten")
        return self.size


def _layer(word: str, text: str) -> Layer:
    kind = next((name for name in sorted(NAMES, key=len, reverse=True) if word.startswith(name)), "")
    rest = word[len(kind) :]
    if kind == SLOPE and re.fullmatch(r"\d*\.?\d+", rest):
        return Layer(kind, slope=None if float(rest) == 0.01 else float(rest))
    if kind == "conv" or kind in POOLS:
        found = WINDOW.fullmatch(rest)
        if found is None:
            raise UserError(f"the layer {word!r} cannot be read; write {kind}KERNEL/STRIDEpPADDING, as {kind}3/2p1")
        kernel, padding = _numbers(found["kernel"]), _numbers(found["padding"] or "0")
        stride = _numbers(found["stride"]) if found["stride"] else (1, 1) if kind == "conv" else kernel
        if min(*kernel, *stride) < 1 or max(*kernel, *stride, *padding) > LARGEST:
            raise UserError(f"the layer {word!r} needs a kernel and a stride from 1 to {LARGEST}")
        return Layer(kind, Window(kernel, stride, padding))
    if not kind or rest:
        raise _unknown_layer(word, text)
    return Layer(kind)


def _unknown_layer(word: str, text: str) -> UserError:
    reason = unknown("layer of a chain", word, NAMES)
    if re.fullmatch(rf"{PREFIX}\w+(\(.*\))?", text.strip()):  # it may be meant for a module called chain
        return UserError(f"{reason}; a factory in your own chain.py is written chain.py:{word}")
    return UserError(f"{reason}; a chain is written like {EXAMPLE}")


def _numbers(text: str) -> Pair:
    first, _, second = text.partition("x")
    return int(first), int(second or first)


def _pair(pair: Pair) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"
