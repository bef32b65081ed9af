"""Operators that compute each number by itself, with the broadcasting of NumPy."""

from collections.abc import Mapping
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layer import Layer, Maker, compute, plain, whole_numbers
from ..node import Node


def divide(a: Tensor, b: Tensor) -> Tensor:
    """The quotient, of whole numbers without its fraction. Raises ZeroDivisionError for whole numbers."""
    if not whole_numbers(a, b):
        return a / b
    if a.device.type == "meta" or b.device.type == "meta":
        return torch.div(a, b, rounding_mode="trunc")
    if bool((b == 0).any()):
        raise ZeroDivisionError("division of a whole number by zero")
    # The smallest number divided by -1 ends the process.
    return torch.where(b == -1, -a, torch.div(a, torch.where(b == -1, 1, b), rounding_mode="trunc"))


def remainder(a: Tensor, b: Tensor, *, sign_of_first: bool) -> Tensor:
    """What division leaves, with the sign of the divisor or of the first number. Raises ValueError for a zero."""
    if not whole_numbers(a, b):
        if not sign_of_first:
            raise ValueError("a remainder of floats with the sign of the divisor")
        return torch.fmod(a, b)
    if b.device.type == "cpu" and bool((b == 0).any()):
        raise ZeroDivisionError("division of a whole number by zero")
    divisor = torch.where(b == -1, 1, b)  # the smallest number divided by -1 ends the process; both leave 0
    return torch.fmod(a, divisor) if sign_of_first else torch.remainder(a, divisor)


def power(base: Tensor, exponent: Tensor) -> Tensor:
    """The power, of the base's type; a single exponent of 2 has a gradient at 0."""
    return torch.pow(base, exponent).to(base.dtype)


def _minimum(*values: Tensor) -> Tensor:
    return reduce(torch.minimum, values)


def _maximum(*values: Tensor) -> Tensor:
    return reduce(torch.maximum, values)


def _total(*values: Tensor) -> Tensor:
    return reduce(torch.add, values)


def _mean(*values: Tensor) -> Tensor:
    return _total(*values) / len(values)


def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """The numbers within bounds. An absent bound does not bind."""
    x = x if low is None else torch.maximum(x, low.to(x.dtype))
    return x if high is None else torch.minimum(x, high.to(x.dtype))


def _clip_between(x: Tensor, low: float | None, high: float | None) -> Tensor:
    return x.clamp(low, high) if (low, high) != (None, None) else x


def _hard_sigmoid_of(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _hard_swish(x: Tensor) -> Tensor:
    return x * (x / 6 + 0.5).clamp(0, 1)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _thresholded(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > alpha, x, 0.0)


def _swish(x: Tensor, alpha: float) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def _infinite(x: Tensor, negative: bool, positive: bool) -> Tensor:
    return torch.isinf(x) & ((x < 0) & negative | (x > 0) & positive)


def _shrunk(x: Tensor, threshold: float, bias: float) -> Tensor:
    return torch.where(x < -threshold, x + bias, torch.where(x > threshold, x - bias, 0.0))


def _where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition.bool(), yes, no)


def _clip(node: Node) -> Layer:
    """The layer for bounds that are attributes (before opset 11) or inputs, as constants or computed."""
    low, high = node.constant(1), node.constant(2)
    single = all(c is None or c.numel() == 1 for c in (low, high))
    if node.opset < 11:
        bounds = [node.number(name, 0.0) if node.given(name) else None for name in ("min", "max")]
    elif single and node.has(1) == (low is not None) and node.has(2) == (high is not None):
        bounds = [None if c is None else float(c.item()) for c in (low, high)]
    else:
        return compute(clip)
    if None not in bounds and bounds[0] > bounds[1]:  # type: ignore[operator]
        bounds[0] = bounds[1]
    return Layer(compute(_clip_between, low=bounds[0], high=bounds[1]).module, takes=1)


def _gelu(node: Node) -> Layer:
    kind = node.text("approximate", "none")
    if kind not in ("none", "tanh"):
        raise node.refused(f"has approximate={kind!r}")
    return compute(F.gelu, approximate=kind)


def _selu(node: Node) -> Layer:
    alpha, gamma = node.number("alpha", 1.67326319217681884765625), node.number("gamma", 1.05070102214813232421875)
    return compute(_scaled_elu, alpha=alpha, gamma=gamma)


def _scaled_elu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    return gamma * F.elu(x, alpha)


def _hard_sigmoid(node: Node) -> Layer:
    return compute(_hard_sigmoid_of, alpha=node.number("alpha", 0.2), beta=node.number("beta", 0.5))


def _is_infinite(node: Node) -> Layer:
    negative, positive = (bool(node.integer(f"detect_{sign}", 1)) for sign in ("negative", "positive"))
    return compute(_infinite, negative=negative, positive=positive)


def _shrink(node: Node) -> Layer:
    return compute(_shrunk, threshold=node.number("lambd", 0.5), bias=node.number("bias", 0.0))


ELEMENTWISE: Mapping[str, Maker] = {
    "Abs": plain(torch.abs),
    "Add": plain(torch.add),
    "And": plain(torch.logical_and),
    "Atan": plain(torch.atan),
    "Celu": lambda node: compute(F.celu, alpha=node.number("alpha", 1.0)),
    "Ceil": plain(torch.ceil),
    "Clip": _clip,
    "Cos": plain(torch.cos),
    "Div": plain(divide),
    "Elu": lambda node: compute(F.elu, alpha=node.number("alpha", 1.0)),
    "Equal": plain(torch.eq),
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Floor": plain(torch.floor),
    "Gelu": _gelu,
    "Greater": plain(torch.gt),
    "GreaterOrEqual": plain(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": plain(_hard_swish),
    "IsInf": _is_infinite,
    "IsNaN": plain(torch.isnan),
    "LeakyRelu": lambda node: compute(F.leaky_relu, negative_slope=node.number("alpha", 0.01)),
    "Less": plain(torch.lt),
    "LessOrEqual": plain(torch.le),
    "Log": plain(torch.log),
    "Max": plain(_maximum),
    "Mean": plain(_mean),
    "Min": plain(_minimum),
    "Mish": plain(F.mish),
    "Mod": lambda node: compute(remainder, sign_of_first=bool(node.integer("fmod", 0))),
    "Mul": plain(torch.mul),
    "Neg": plain(torch.neg),
    "Not": plain(torch.logical_not),
    "Or": plain(torch.logical_or),
    "PRelu": plain(_prelu),
    "Pow": plain(power),
    "Reciprocal": plain(torch.reciprocal),
    "Relu": plain(F.relu),
    "Round": plain(torch.round),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": plain(torch.sigmoid),
    "Sign": plain(torch.sign),
    "Sin": plain(torch.sin),
    "Softplus": plain(F.softplus),
    "Softsign": plain(F.softsign),
    "Sqrt": plain(torch.sqrt),
    "Sub": plain(torch.sub),
    "Sum": plain(_total),
    "Swish": lambda node: compute(_swish, alpha=node.number("alpha", 1.0)),
    "Tan": plain(torch.tan),
    "Tanh": plain(torch.tanh),
    "ThresholdedRelu": lambda node: compute(_thresholded, alpha=node.number("alpha", 1.0)),
    "Where": plain(_where),
    "Xor": plain(torch.logical_xor),
}
