"""Other derivatives for the torch functions that a model calls, while it runs.

Every call is intercepted, in Python and in programs that are read operator by operator. Values do not
change; functions without a useful derivative get another one. Backward Pass Differentiable Approximation, Athalye et
al. 2018, https://arxiv.org/abs/1802.00420. Their derivative is 1 everywhere, or largest near the threshold at which
they change, as in Zenke and Ganguli 2018, https://arxiv.org/abs/1705.11146: a small perturbation can move only values
that are near it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import table_repairs
from .marks import Mark, Marks
from .memory import out_of_memory
from .stand_in import Slope, also, becomes, original_apply, stands_for

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
def repairs(leak: float = 0.0, watch: Watch | None = None, sharpness: float = 0.0, rows: int = 0) -> Iterator[None]:
    """Within, torch functions are intercepted, and the model's own autograd functions pass gradients on unchanged.

    A dead unit has the derivative `leak`. `watch` receives every tensor that a function returns. With a `sharpness`
    above 0, the derivative of a step falls with the distance from its threshold (`_near`) in tensors of `rows` rows,
    one for each image.
    """
    mode = _Repairs(leak, watch, sharpness, rows)

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

    def __init__(self, leak: float, watch: Watch | None, sharpness: float, rows: int):
        super().__init__()
        self.leak = leak
        self.watch = watch
        self.sharpness = sharpness
        self.rows = rows
        self.marks = Marks()
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
            value = func(first.detach().clone(), *args[1:], **kwargs)
            out = self._written(name[:-1], first, value)
        else:
            out = func(*args, **kwargs)
            out = self._with_a_derivative(name, args, kwargs, first, out)
        if self.watch is not None and isinstance(out, Tensor):
            self.watch(out)
        return out

    def _with_a_derivative(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], first: Tensor, out: Any
    ) -> Any:
        """What a function returned, with another derivative if one is known for this form of the call."""
        try:
            table_repairs.note_ranks(self.marks, name, args, kwargs, out)
            if name in _DECOMPOSITIONS:
                return _decomposed(name, first, out) if first.requires_grad and first.is_floating_point() else out
            if not isinstance(out, Tensor):
                return out
            made = self._with_a_slope(name, args, kwargs, first, out)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if out_of_memory(error):
                raise
            return out
        return made if (made.shape, made.dtype) == (out.shape, out.dtype) else out

    def _with_a_slope(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], first: Tensor, out: Tensor
    ) -> Tensor:
        mark = self.marks.of(first)
        source = first if mark.source is None else mark.source
        if name == "where":
            return self._chosen(args, out)
        if name in table_repairs.TABLES:
            return table_repairs.entry(self.marks, name, args, out)
        if name == "one_hot" and mark.labels is not None:
            return table_repairs.one_hot(self.marks, first, out)
        if name in _PRODUCTS and self.sharpness:
            return self._product(args, out)
        if name in _BREAKS:
            return self._comparison(name, mark, first, args[1] if len(args) > 1 else kwargs.get("other"), out)
        if name == "argmax" and first.requires_grad:
            return self.marks.put(out, replace(self.marks.of(out), source=first))  # `one_hot` of it has its shape
        if not source.requires_grad or out.shape != source.shape:
            return out
        if name == "one_hot":
            return self.marks.put(out, Mark(source, mark.slope))
        if not out.is_floating_point():  # whole numbers and truth values, until they become numbers
            return self._whole(name, mark, source, first, out)
        if name in _CASTS and (source is not first or out.dtype != first.dtype):
            return stands_for(source, out, mark.slope)
        if name in _CHANGED:
            return self._step(name, first, out)
        if name in _WAVES:  # their derivative has no meaning for larger steps
            return stands_for(first, out, 1.0 if name in ("remainder", "fmod", "__mod__") else 0.0)
        if name in _UNITS and self.leak:
            return stands_for(first, out, torch.where(first > 0, 1.0, self.leak))
        return out

    def _whole(self, name: str, mark: Mark, source: Tensor, first: Tensor, out: Tensor) -> Tensor:
        """Whole numbers that stand for `source`: a cast of it, or what is computed from others that do."""
        if name not in _TO_NUMBERS and source is first:
            return out
        slope, past = mark.slope, mark.past
        cut = name in _CUTS and source is first and past is None and out.dtype != torch.bool
        if cut and first.is_floating_point():
            slope, past = self._slope("trunc", first.detach(), out)
        return self.marks.put(out, Mark(source, slope, past))

    def _comparison(self, name: str, mark: Mark, first: Tensor, other: object, out: Tensor) -> Tensor:
        """A comparison that stands for the difference of what it compares, or for what its first side stands for."""
        source, slope = mark.source, mark.slope
        known = (isinstance(other, int | float) and not isinstance(other, bool)) or (
            isinstance(other, Tensor) and other.dtype != torch.bool
        )
        if source is None and first.is_floating_point() and known:
            source = first - other  # type: ignore[operator]
            slope = self._near(source)
        if source is not None and source.requires_grad and source.shape == out.shape:
            self.marks.put(out, Mark(source, _BREAKS[name] * slope))
        return out

    def _step(self, name: str, first: Tensor, out: Tensor) -> Tensor:
        """A step, a cut or a saturating function."""
        slope, past = self._slope(name, first.detach(), out)
        if name in _BOUNDED:  # whole numbers stay what they are, within the bounds
            past = self.marks.of(first).past
        made = stands_for(first, out, slope)
        return made if past is None else self.marks.put(made, Mark(past=past))

    def _written(self, name: str, first: Tensor, value: Tensor) -> Tensor:
        """The same where it is written into its argument."""
        slope, past = self._slope(name, first.detach(), value)
        made = becomes(first, value, slope)
        return self.marks.put(made, Mark(past=past))  # also None: it may have been marked before

    def _slope(self, name: str, x: Tensor, out: Tensor) -> tuple[Slope, Tensor | None]:
        """The derivative at `x`; and how far that is past the middle of its step, where steps are whole numbers."""
        if name in _BOTH_SIDES:
            return self._near(x), None
        if name not in _CENTRES:
            return 1.0, None
        past = (x - out).detach() - _CENTRES[name]
        return self._near(0.5 - past.abs()), past

    def _near(self, distance: Tensor) -> Slope:
        """The derivative of a step at this signed distance from its threshold.

        1 / (1 + sharpness r)^2 as in Zenke and Ganguli 2018, where r is the distance over its mean magnitude in the
        row, that is in the image: no image may depend on others. 1 in tensors with other rows.
        """
        if not self.sharpness or distance.ndim < 2 or len(distance) != self.rows or not distance[0].numel():
            return 1.0
        size = distance.detach().abs().double().flatten(1)
        finite = size.isfinite()
        mean = size.masked_fill(~finite, 0.0).sum(dim=1, keepdim=True) / finite.sum(dim=1, keepdim=True).clamp(min=1)
        slope = (1 + self.sharpness * size / mean.clamp(min=1e-300)).pow(-2).masked_fill(~finite, 0.0)
        return slope.view_as(distance).to(distance.dtype)

    def _chosen(self, args: Sequence[Any], out: Tensor) -> Tensor:
        """The result of `torch.where`.

        In a surrogate that leaks, a constant where the image selects it passes `leak` on to the other branch. In a
        sharp one the choice is a step of the height between the branches.
        """
        if len(args) < 3 or not out.is_floating_point():
            return out
        truth, one, other = args[:3] if _is_truth(args[0]) else (args[1], args[0], args[2])
        if self.leak:
            for branch, constant, chosen in ((one, other, truth), (other, one, truth.logical_not())):
                fixed = not isinstance(constant, Tensor) or not constant.requires_grad
                if isinstance(branch, Tensor) and branch.requires_grad and fixed and branch.shape == out.shape:
                    return stands_for(branch, out, torch.where(chosen, 1.0, self.leak))
        if not self.sharpness:
            return out
        height = torch.as_tensor(one).detach().to(out.dtype) - torch.as_tensor(other).detach().to(out.dtype)
        return self._with_the_step(truth, height, out)

    def _product(self, args: Sequence[Any], out: Tensor) -> Tensor:
        """A product of numbers and truth values, which stand for a difference."""
        for truth, other in ((args[0], args[1]), (args[1], args[0])) if len(args) > 1 else ():
            if _is_truth(truth) and out.is_floating_point():
                return self._with_the_step(truth, torch.as_tensor(other).detach().to(out.dtype), out)
        return out

    def _with_the_step(self, truth: Tensor, height: Tensor, out: Tensor) -> Tensor:
        """The output with the derivative of a step of this height, if the truth values stand for a difference."""
        mark = self.marks.of(truth)
        if mark.source is None or mark.source.shape != out.shape:
            return out
        return also(out, mark.source, mark.slope * height.to(mark.source.dtype).nan_to_num(0.0, 0.0, 0.0))


def _is_truth(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool


def _decomposed(name: str, x: Tensor, out: Any) -> Any:
    """Singular vectors and values of matrices, with derivatives that stay finite where values are equal.

    U counts as x V / S, V^T as U^T x / S, and S as the diagonal of U^T x V, with fixed factors beside x. So a product
    of low rank changes with the projections of x on the vectors that stay.
    """
    u, values, v = (part.detach() for part in out)
    vt = v.mT if name == "svd" else v
    rank = values.shape[-1]
    if not rank or not u.any():  # the call was for values alone
        return out
    scale = torch.maximum(values, 1e-6 * values[..., :1]).clamp(min=1e-12)  # the first is the largest
    columns, rows = u[..., :rank], vt[..., :rank, :]
    moved_u, moved_vt = x @ rows.mT / scale[..., None, :], columns.mT @ x / scale[..., None]
    padded = torch.nn.functional.pad
    new_u = also(u, padded(moved_u, (0, u.shape[-1] - rank)))
    new_vt = also(vt, padded(moved_vt, (0, 0, 0, vt.shape[-2] - rank)))
    new_values = also(values, (columns * (x @ rows.mT)).sum(dim=-2))
    made = new_u, new_values, new_vt.mT if name == "svd" else new_vt
    return made if type(out) is tuple else type(out)(made)


_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]

_ACTIVE: list[_Repairs] = []
