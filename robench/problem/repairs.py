"""Other derivatives for the torch functions that a model calls, while it runs.

Every call is intercepted, in Python and in programs that are read operator by operator. Values do not
change; functions without a useful derivative get another one. Backward Pass Differentiable Approximation, Athalye et
al. 2018, https://arxiv.org/abs/1802.00420.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_STEPS = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "frac", "heaviside", "floor_divide", "fake_quantize"}
_STEPS |= {"__floordiv__", "fake_quantize_per_tensor_affine"}
_BOUNDED = {"clamp", "clip", "clamp_min", "clamp_max", "clamp_", "hardtanh", "relu6", "hardsigmoid"}
_SATURATING = {"softmax", "sigmoid", "tanh", "exp", "log", "sqrt", "_softmax"}
_WAVES = {"sin", "cos", "remainder", "fmod", "__mod__"}
_CASTS = {"to", "float", "double", "half", "bfloat16", "type", "type_as", "_to_copy"}
_TO_NUMBERS = {"int", "long", "short", "to", "type", "_to_copy"}
_BREAKS = {"gt": 1.0, "ge": 1.0, "lt": -1.0, "le": -1.0, "__gt__": 1.0, "__ge__": 1.0, "__lt__": -1.0, "__le__": -1.0}
_UNITS = {"relu", "threshold", "relu_"}
_TABLES = {"__getitem__", "index", "embedding", "take", "gather", "index_select"}

Watch = Callable[[Tensor], None]
"""Receives the output of every function."""


@contextmanager
def repairs(leak: float = 0.0, watch: Watch | None = None) -> Iterator[None]:
    """Within, torch functions are intercepted, and the model's own autograd functions pass gradients on unchanged.

    A dead unit has the derivative `leak`. `watch` receives every tensor that a function returns.
    """
    mode = _Repairs(leak, watch)

    def apply(kind: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        out = _APPLY.__func__(kind, *args, **kwargs)
        if mode.suspended:
            return out
        first = next((a for a in args if isinstance(a, Tensor)), None)
        same = isinstance(out, Tensor) and first is not None and out.shape == first.shape
        return _stands_for(first, out) if same and first is not None and first.requires_grad else out

    graph = torch.is_grad_enabled()
    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    _ACTIVE.append(mode)
    try:
        with mode:
            yield
    finally:
        _ACTIVE.pop()
        torch.set_grad_enabled(graph)
        torch.autograd.Function.apply = _APPLY  # type: ignore[method-assign]


@contextmanager
def suspended() -> Iterator["Repairs | None"]:
    """Within, nothing is intercepted. Gives the settings of the innermost `repairs`, or None where there are none.

    For a part of a model that runs elsewhere, and intercepts its calls there.
    """
    mode = _ACTIVE[-1] if _ACTIVE else None
    if mode is None or mode.suspended:
        yield None
        return
    mode.suspended = True
    try:
        yield Repairs(mode.leak, mode.watch)
    finally:
        mode.suspended = False


@dataclass(frozen=True)
class Repairs:
    """The settings of `repairs`."""

    leak: float
    watch: Watch | None


class _As(torch.autograd.Function):
    """A stand-in: its value is `value`; its gradient goes to `source`, times `slope`."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, slope: float | Tensor) -> Tensor:
        ctx.dtype, ctx.slope = source.dtype, slope
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return (grads[0].to(ctx.dtype) * ctx.slope), None, None


def _stands_for(source: Tensor, value: Tensor, slope: float | Tensor = 1.0) -> Tensor:
    stand_in: Tensor = _original_apply(_As, source, value.detach(), slope)
    return stand_in


class _Repairs(TorchFunctionMode):
    """Intercepts every call of a torch function, and replaces the derivatives that are of no use."""

    def __init__(self, leak: float, watch: Watch | None):
        super().__init__()
        self.leak = leak
        self.watch = watch
        self.suspended = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self.suspended:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").partition(".")[0]  # of exported programs: round.default
        first = args[0] if args else kwargs.get("input")
        if name == "_set_grad_enabled":
            return func(*args, **kwargs) if args[0] else None  # no_grad has no effect
        if not isinstance(first, Tensor):
            return func(*args, **kwargs)
        if name in ("detach", "detach_") or func == _DATA:
            return first
        if name in ("register_hook", "requires_grad_") and not first.is_leaf:
            return first
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor):
            return out
        out = _selected(args, out, self.leak) if name == "where" else _with_a_slope(name, args, first, out, self.leak)
        if self.watch is not None:
            self.watch(out)
        return out


def _with_a_slope(name: str, args: Sequence[Any], first: Tensor, out: Tensor, leak: float) -> Tensor:
    source, sign = getattr(first, "_stood_for", (first, 1.0))
    if name in _TABLES:
        return _from_table(args, out)
    if name in _BREAKS and first.is_floating_point() and first.requires_grad and out.shape == first.shape:
        out._stood_for = (first, _BREAKS[name])  # type: ignore[attr-defined]
    elif name == "argmax" and first.requires_grad:
        out._stood_for = (first, 1.0)  # type: ignore[attr-defined]
    elif not source.requires_grad or out.shape != source.shape:
        return out
    elif name == "one_hot" or (not out.is_floating_point() and (name in _TO_NUMBERS or source is not first)):
        out._stood_for = (source, sign * _BREAKS.get(name, 1.0))  # type: ignore[attr-defined]
    elif name in _CASTS and out.is_floating_point() and (source is not first or out.dtype != first.dtype):
        return _stands_for(source, out, sign)
    elif name in _STEPS or name in _BOUNDED or name in _SATURATING:
        return _stands_for(first, out)
    elif name in _WAVES:  # their derivative has no meaning for larger steps
        return _stands_for(first, out, 1.0 if name in ("remainder", "fmod", "__mod__") else 0.0)
    elif name in _UNITS and leak:
        return _stands_for(first, out, torch.where(first > 0, 1.0, leak))
    return out


def _selected(args: Sequence[Any], out: Tensor, leak: float) -> Tensor:
    """The result of `torch.where`; in a surrogate that leaks, a constant where the image selects it passes `leak`."""
    if not leak or len(args) < 3:
        return out
    for branch, other, selected in ((args[1], args[2], args[0]), (args[2], args[1], args[0].logical_not())):
        constant = not isinstance(other, Tensor) or not other.requires_grad
        if isinstance(branch, Tensor) and branch.requires_grad and constant and branch.shape == out.shape:
            return _stands_for(branch, out, torch.where(selected, 1.0, leak))
    return out


def _from_table(args: Sequence[Any], out: Tensor) -> Tensor:
    """The entry of a table at places that stand for a tensor: as if the table rose with the place."""
    places = args[1:] if not isinstance(args[-1], tuple | list) else args[-1]
    for place in places:
        source, sign = getattr(place, "_stood_for", (None, 1.0))
        if source is not None and source.requires_grad and source.shape == out.shape and out.is_floating_point():
            return _stands_for(source, out, sign)
    return out


_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


def _original_apply(kind: type[torch.autograd.Function], *args: Any) -> Any:
    return _APPLY.__func__(kind, *args)


_ACTIVE: list[_Repairs] = []
_APPLY: Any = torch.autograd.Function.__dict__["apply"]
