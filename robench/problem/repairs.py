"""Other derivatives for the torch functions that a model calls, while it runs.

Every call is intercepted, in Python and in programs that are read operator by operator. Values do not
change; functions without a useful derivative get another one. Backward Pass Differentiable Approximation, Athalye et
al. 2018, https://arxiv.org/abs/1802.00420. Their derivative is 1 everywhere, or largest near the threshold at which
they change, as in Zenke and Ganguli 2018, https://arxiv.org/abs/1705.11146: a small perturbation can move only values
that are near it.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import table_repairs
from .stand_in import becomes, original_apply, stands_for

_STEPS = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "frac", "heaviside", "floor_divide", "fake_quantize"}
_STEPS |= {"__floordiv__", "fake_quantize_per_tensor_affine"}
_BOUNDED = {"clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "relu6", "hardsigmoid"}
_SATURATING = {"softmax", "sigmoid", "tanh", "exp", "log", "sqrt", "_softmax"}
_CHANGED = _STEPS | _BOUNDED | _SATURATING
_WAVES = {"sin", "cos", "remainder", "fmod", "__mod__"}
_CASTS = {"to", "float", "double", "half", "bfloat16", "type", "type_as", "_to_copy"}
_CUTS = {"int", "long", "short", "to", "type", "_to_copy"}  # to whole numbers, as `trunc` does
_TO_NUMBERS = _CUTS | {"bucketize"}
_BREAKS = {"gt": 1.0, "ge": 1.0, "lt": -1.0, "le": -1.0, "__gt__": 1.0, "__ge__": 1.0, "__lt__": -1.0, "__le__": -1.0}
_UNITS = {"relu", "threshold", "relu_"}
_BOTH_SIDES = {"sign", "sgn", "heaviside", "sigmoid", "tanh"}  # with one threshold, at zero
_CENTRES = {"round": 0.0, "floor": 0.5, "trunc": 0.5, "fix": 0.5, "ceil": -0.5}  # of a step, less its whole number
_DECOMPOSITIONS = {"linalg_svd", "svd"}
_PRODUCTS = {"mul", "multiply", "__mul__", "__rmul__"}

Watch = Callable[[Tensor], None]
"""Receives the output of every function."""


@contextmanager
def repairs(leak: float = 0.0, watch: Watch | None = None, sharpness: float = 0.0) -> Iterator[None]:
    """Within, torch functions are intercepted, and the model's own autograd functions pass gradients on unchanged.

    A dead unit has the derivative `leak`. `watch` receives every tensor that a function returns. With a `sharpness`
    above 0, the derivative of a step falls with the distance from its threshold (`_near`).
    """
    mode = _Repairs(leak, watch, sharpness)

    def apply(kind: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        out = original_apply.__func__(kind, *args, **kwargs)
        if mode.suspended:
            return out
        first = next((a for a in args if isinstance(a, Tensor)), None)
        same = isinstance(out, Tensor) and first is not None and out.shape == first.shape
        return stands_for(first, out) if same and first is not None and first.requires_grad else out

    graph = torch.is_grad_enabled()
    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    _ACTIVE.append(mode)
    try:
        with mode:
            yield
    finally:
        _ACTIVE.pop()
        torch.set_grad_enabled(graph)
        torch.autograd.Function.apply = original_apply  # type: ignore[method-assign]


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
        yield Repairs(mode.leak, mode.watch, mode.sharpness)
    finally:
        mode.suspended = False


@dataclass(frozen=True)
class Repairs:
    """The settings of `repairs`."""

    leak: float
    watch: Watch | None
    sharpness: float


class _Repairs(TorchFunctionMode):
    """Intercepts every call of a torch function, and replaces the derivatives that are of no use."""

    def __init__(self, leak: float, watch: Watch | None, sharpness: float):
        super().__init__()
        self.leak = leak
        self.watch = watch
        self.sharpness = sharpness
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
        if name[:-1] in _CHANGED and name[-1] == "_" and args and first.requires_grad and not first.is_leaf:
            return self._in_place(func, name[:-1], first, args, kwargs)
        out = func(*args, **kwargs)
        table_repairs.note_ranks(name, args, kwargs, out)
        if name in _DECOMPOSITIONS and first.requires_grad:
            return _decomposed(first, out)
        if not isinstance(out, Tensor):
            return out
        out = self._with_a_slope(name, args, first, out)
        if self.watch is not None:
            self.watch(out)
        return out

    def _with_a_slope(self, name: str, args: Sequence[Any], first: Tensor, out: Tensor) -> Tensor:
        source, slope = getattr(first, "_stood_for", (first, 1.0))
        if name == "where":
            return _chosen(args, _selected(args, out, self.leak)) if self.sharpness else _selected(args, out, self.leak)
        if name in table_repairs.TABLES:
            return table_repairs.entry(args, out)
        if name == "one_hot" and hasattr(first, "_classes"):
            return table_repairs.one_hot(first, out)
        if name in _PRODUCTS and self.sharpness:
            return _product(args, out)
        if name in _BREAKS:
            return self._comparison(name, first, args, out)
        if name == "argmax" and first.requires_grad:
            out._stood_for = (first, 1.0)  # type: ignore[attr-defined]
        elif not source.requires_grad or out.shape != source.shape:
            return out
        elif name == "one_hot" or (not out.is_floating_point() and (name in _TO_NUMBERS or source is not first)):
            past = getattr(first, "_past", None)
            if name in _CUTS and source is first and first.is_floating_point() and past is None:
                slope, past = self._slope("trunc", first, out)
            _marked(out, past)._stood_for = (source, slope)  # type: ignore[attr-defined]
        elif name in _CASTS and out.is_floating_point() and (source is not first or out.dtype != first.dtype):
            return stands_for(source, out, slope)
        elif name in _CHANGED:
            return self._step(name, first, out)
        elif name in _WAVES:  # their derivative has no meaning for larger steps
            return stands_for(first, out, 1.0 if name in ("remainder", "fmod", "__mod__") else 0.0)
        elif name in _UNITS and self.leak:
            return stands_for(first, out, torch.where(first > 0, 1.0, self.leak))
        return out

    def _comparison(self, name: str, first: Tensor, args: Sequence[Any], out: Tensor) -> Tensor:
        """A comparison that stands for the difference of what it compares, or for what its first side stands for."""
        source, slope = getattr(first, "_stood_for", (first, 1.0))
        other = args[1] if len(args) > 1 else 0.0
        known = isinstance(other, int | float) or (isinstance(other, Tensor) and other.dtype != torch.bool)
        if source is first and first.is_floating_point() and known:
            source = first - other
            slope = _near(source, self.sharpness)
        if source.requires_grad and source.shape == out.shape:
            out._stood_for = (source, _BREAKS[name] * slope)  # type: ignore[attr-defined]
        return out

    def _step(self, name: str, first: Tensor, out: Tensor) -> Tensor:
        """A step, a cut or a saturating function."""
        slope, past = self._slope(name, first.detach(), out)
        if name in _BOUNDED:  # whole numbers stay what they are, within the bounds
            past = getattr(first, "_past", None)
        return _marked(stands_for(first, out, slope), past)

    def _in_place(self, func: Any, name: str, first: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """A step, a cut or a saturating function that is written into its argument."""
        value = func(first.detach().clone(), *args[1:], **kwargs)
        slope, past = self._slope(name, first.detach(), value)
        out = _marked(becomes(first, value, slope), past)
        if self.watch is not None:
            self.watch(out)
        return out

    def _slope(self, name: str, x: Tensor, out: Tensor) -> tuple[float | Tensor, Tensor | None]:
        """The derivative at `x`; and how far that is past the middle of its step, where steps are whole numbers."""
        if name in _BOTH_SIDES:
            return _near(x, self.sharpness), None
        if name not in _CENTRES:
            return 1.0, None
        past = (x - out).detach() - _CENTRES[name]
        return _near(0.5 - past.abs(), self.sharpness), past


def _marked(made: Tensor, past: Tensor | None) -> Tensor:
    """A tensor that remembers how far its values were past the middle of their steps."""
    if past is not None:
        made._past = past  # type: ignore[attr-defined]
    return made


def _near(distance: Tensor, sharpness: float) -> float | Tensor:
    """The derivative of a step at this signed distance from its threshold.

    1 / (1 + sharpness r)^2 as in Zenke and Ganguli 2018, where r is the distance over its mean magnitude in the row;
    the first dimension counts the examples.
    """
    if not sharpness or distance.ndim < 2:
        return 1.0
    size = distance.detach().abs()
    mean = size.flatten(1).mean(dim=1).clamp(min=torch.finfo(size.dtype).tiny)
    return (1 + sharpness * size / mean.view(-1, *[1] * (size.ndim - 1))).pow(-2)


def _selected(args: Sequence[Any], out: Tensor, leak: float) -> Tensor:
    """The result of `torch.where`; in a surrogate that leaks, a constant where the image selects it passes `leak`."""
    if not leak or len(args) < 3:
        return out
    for branch, other, selected in ((args[1], args[2], args[0]), (args[2], args[1], args[0].logical_not())):
        constant = not isinstance(other, Tensor) or not other.requires_grad
        if isinstance(branch, Tensor) and branch.requires_grad and constant and branch.shape == out.shape:
            return stands_for(branch, out, torch.where(selected, 1.0, leak))
    return out


def _chosen(args: Sequence[Any], out: Tensor) -> Tensor:
    """The result of `torch.where`, whose condition stands for a difference: the step has the height of the choice."""
    if len(args) < 3 or not out.is_floating_point():
        return out
    height = torch.as_tensor(args[1]).detach() - torch.as_tensor(args[2]).detach()
    return _with_the_step(args[0], height, out)


def _product(args: Sequence[Any], out: Tensor) -> Tensor:
    """A product of numbers and truth values, which stand for a difference."""
    for truth, other in itertools.permutations(args[:2]):
        if isinstance(truth, Tensor) and truth.dtype == torch.bool and out.is_floating_point():
            return _with_the_step(truth, torch.as_tensor(other).detach(), out)
    return out


def _with_the_step(truth: Tensor, height: Tensor, out: Tensor) -> Tensor:
    """The output with the derivative of a step of this height, if the truth values stand for a difference."""
    source, slope = getattr(truth, "_stood_for", (None, 1.0))
    if source is None or source.shape != out.shape:
        return out
    height = height.to(out).nan_to_num(0.0, 0.0, 0.0)
    return out + stands_for(source, torch.zeros_like(out), slope * height)


def _decomposed(x: Tensor, out: Any) -> Any:
    """Singular vectors and values of matrices, with derivatives that stay finite where values are equal.

    The right vectors V count as fixed, so that the left ones are x V / S: a product of rank K then changes with x as
    its projection on K fixed right vectors does.
    """
    left, values, right = (part.detach() for part in out)
    columns = right if type(out).__name__ == "svd" else right.mH
    columns = columns[..., : values.shape[-1]]
    moved = x @ columns  # left vectors times their values
    scale = torch.maximum(values, 1e-6 * values[..., :1]).clamp(min=1e-12)  # the first is the largest
    new_left = left.clone()
    new_left[..., : values.shape[-1]] += (moved - moved.detach()) / scale[..., None, :]
    size = (left[..., : values.shape[-1]] * moved).sum(dim=-2)
    return type(out)((new_left, values + (size - size.detach()), right))


_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


_ACTIVE: list[_Repairs] = []
