"""Surrogates of a model: the same forward pass with a useful backward pass, for models whose gradients mislead.

The forward pass does not change, so every find of an attack is a find on the model; the referee still judges it with
the unchanged model. Backward Pass Differentiable Approximation, Athalye et al. 2018,
https://arxiv.org/abs/1802.00420. Here the functions to approximate are found while the model runs; there an expert
names them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..problem.checkpoints.programs import is_out_of_reach
from ..problem.classifier import Classifier
from ..problem.shapes import Inputs, Logits
from ..problem.threats import Ball

AGREEMENT = 0.9  # share of images on which an inner layer must predict as the model does, to stand for it
LEAKY_SLOPE = 0.1  # of a dead unit, in a surrogate that leaks
NEARBY = 8  # images whose gradients are averaged
AWAY = 0.5  # where these lie, as a share of the way from the image to random members of its threat set

_STEPS = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "frac", "heaviside"}
_BOUNDED = {"clamp", "clip", "clamp_min", "clamp_max", "clamp_", "hardtanh", "relu6", "hardsigmoid"}
_SATURATING = {"softmax", "sigmoid", "tanh", "exp", "log", "sqrt"}
_CASTS = {"to", "float", "double", "half", "bfloat16", "type", "type_as"}
_BREAKS = {"gt": 1.0, "ge": 1.0, "lt": -1.0, "le": -1.0, "__gt__": 1.0, "__ge__": 1.0, "__lt__": -1.0, "__le__": -1.0}
_UNITS = {"relu", "threshold", "relu_"}


def bpda(classifier: Classifier, *, differentiates: bool = False, leak: float = 0.0) -> Classifier:
    """A surrogate in which functions without a useful derivative have that of the identity.

    These functions are steps, comparisons that become numbers, cuts, saturating functions, casts, and the model's own
    autograd functions. A dead ReLU has the derivative `leak`. Calls that cut the graph (detach, no_grad) and hooks that
    change gradients have no effect. Code that TorchScript has compiled is out of reach and stays as it is. For a model
    that `differentiates` in its forward pass, other derivatives would change the answer, so its logits come from a
    second, unchanged pass.
    """
    return _with(classifier, _BPDA(classifier.module, differentiates, leak))


def inner_layer(classifier: Classifier, x: Inputs, *, differentiates: bool = False) -> Classifier | None:
    """A surrogate with the logits of an inner layer: the last one that predicts as the model does, by other numbers.

    The layer is chosen on the images `x`. The surrogate answers with the layer's logits if they name the model's
    class, else with the model's own; its gradient is always the layer's. None if there is no such layer, or if hooks
    do not reach it.
    """
    with torch.no_grad():
        answer = classifier(x)
    predicted = answer.argmax(dim=1)
    agreeing = [
        name
        for name, logits in _outputs(classifier.module, x).items()
        if logits.shape == (len(x), classifier.classes)
        and (logits.argmax(dim=1) == predicted).double().mean() >= AGREEMENT
        and bool(logits.isfinite().all())
        and not torch.equal(logits, answer)
    ]
    return _with(classifier, _InnerLayer(classifier.module, differentiates, agreeing[-1])) if agreeing else None


def rescaled(classifier: Classifier, spread: float, *, probabilities: bool) -> Classifier:
    """A surrogate whose logits are divided by their spread in float64; the logarithm, if outputs are probabilities."""
    return _with(classifier, _Rescaled(classifier.module, spread, probabilities))


def smoothed(classifier: Classifier, threat: Ball) -> Classifier:
    """A surrogate whose gradient is the mean of several nearby ones, for gradients that jump from place to place.

    Tramèr et al. 2020 break k-winners-take-all this way, https://arxiv.org/abs/2002.08347. Every image uses the same
    directions. One gradient costs NEARBY gradients. It needs no access to layers, so it serves compiled models too.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(NEARBY, *classifier.shape, generator=generator).to(classifier.device)
    return _with(classifier, _Smoothed(classifier.module, threat, noise))


def is_compiled(classifier: Classifier) -> bool:
    """Whether some part of the model was compiled by TorchScript or exported, so that its layers are out of reach."""
    return any(map(is_out_of_reach, classifier.module.modules()))


def _with(classifier: Classifier, module: nn.Module) -> Classifier:
    """The classifier with another module, of the same weights."""
    about = {"architecture": classifier.architecture, "normalisation": classifier.normalisation}
    return Classifier(module, name=classifier.name, shape=classifier.shape, classes=classifier.classes, **about)


class _BPDA(nn.Module):
    def __init__(self, module: nn.Module, differentiates: bool, leak: float = 0.0):
        super().__init__()
        self.module = module
        self.differentiates = differentiates
        self.leak = leak

    def forward(self, x: Inputs) -> Logits:
        with _repairs(self.leak):
            logits: Tensor = self.module(x)
        logits = logits.float()  # attacks compute in float32, whatever the model's own precision
        return self.value(x) + (logits - logits.detach()) if self.differentiates else logits

    def value(self, x: Inputs) -> Logits:
        """The unchanged model's logits."""
        with torch.no_grad():
            logits: Tensor = self.module(x)
        return logits.float()


class _InnerLayer(_BPDA):
    def __init__(self, module: nn.Module, differentiates: bool, place: str):
        super().__init__(module, differentiates)
        self.place = place

    def forward(self, x: Inputs) -> Logits:
        predictions: list[Tensor] = []
        handle = self.module.get_submodule(self.place).register_forward_hook(lambda m, i, out: predictions.append(out))
        try:
            with _repairs(self.leak):
                logits: Tensor = self.module(x)
        finally:
            handle.remove()
        return _in_place_of(self.value(x) if self.differentiates else logits, predictions[-1])


class _Rescaled(nn.Module):
    def __init__(self, module: nn.Module, spread: float, probabilities: bool):
        super().__init__()
        self.module = module
        self.spread = spread
        self.probabilities = probabilities

    def forward(self, x: Inputs) -> Logits:
        outputs: Tensor = self.module(x).double()
        return (outputs.clamp(min=1e-300).log() if self.probabilities else outputs / self.spread).float()


class _Smoothed(nn.Module):
    def __init__(self, module: nn.Module, threat: Ball, noise: Tensor):
        super().__init__()
        self.module = module
        self.threat = threat
        self.noise = noise

    def forward(self, x: Inputs) -> Logits:
        here = torch.cat([x] * len(self.noise))
        with torch.no_grad():
            logits: Tensor = self.module(x).float()
            aside = AWAY * self.threat.sample(here, self.noise.repeat_interleave(len(x), dim=0).to(x))
        nearby: Tensor = self.module(here + aside)
        mean = nearby.float().view(len(self.noise), *logits.shape).mean(dim=0)
        return logits + (mean - mean.detach())


def _in_place_of(logits: Logits, inner: Logits) -> Logits:
    """The inner logits where they predict as the model does; else the model's, with the inner ones' gradient."""
    agrees = (logits.argmax(dim=1) == inner.argmax(dim=1))[:, None]
    inner = inner.float()
    return torch.where(agrees, inner, logits.detach().float() + (inner - inner.detach()))


def _outputs(module: nn.Module, x: Inputs) -> Mapping[str, Tensor]:
    """The output of each inner layer, in the order in which they last end. Layers of TorchScript take no hooks."""
    predictions: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(layer: nn.Module, given: Any, out: Any) -> None:
            if isinstance(out, Tensor):
                predictions.pop(name, None)
                predictions[name] = out.detach()

        return note

    hooked = [(n, m) for n, m in module.named_modules() if n and not isinstance(m, torch.jit.ScriptModule)]
    handles = [layer.register_forward_hook(hook(name)) for name, layer in hooked]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    return predictions


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

    def __init__(self, leak: float):
        super().__init__()
        self.leak = leak

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
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
        return _with_a_slope(name, first, out, self.leak)


def _with_a_slope(name: str, first: Tensor, out: Tensor, leak: float) -> Tensor:
    source, sign = getattr(first, "_stood_for", (first, 1.0))
    if name in _BREAKS and first.is_floating_point() and first.requires_grad and out.shape == first.shape:
        out._stood_for = (first, _BREAKS[name])  # type: ignore[attr-defined]
    elif name == "argmax" and first.requires_grad:
        out._stood_for = (first, 1.0)  # type: ignore[attr-defined]
    elif not source.requires_grad or out.shape != source.shape:
        return out
    elif name == "one_hot":
        out._stood_for = (source, sign)  # type: ignore[attr-defined]
    elif name in _CASTS and out.is_floating_point() and (source is not first or out.dtype != first.dtype):
        return _stands_for(source, out, sign)
    elif name in _STEPS or name in _BOUNDED or name in _SATURATING:
        return _stands_for(first, out)
    elif name in _UNITS and leak:
        return _stands_for(first, out, torch.where(first > 0, 1.0, leak))
    return out


_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


def _original_apply(kind: type[torch.autograd.Function], *args: Any) -> Any:
    return _APPLY.__func__(kind, *args)


_APPLY: Any = torch.autograd.Function.__dict__["apply"]


@contextmanager
def _repairs(leak: float) -> Iterator[None]:
    """Within, torch functions are intercepted, and the model's own autograd functions pass gradients on unchanged."""

    def apply(kind: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        out = _APPLY.__func__(kind, *args, **kwargs)
        first = next((a for a in args if isinstance(a, Tensor)), None)
        same = isinstance(out, Tensor) and first is not None and out.shape == first.shape
        return _stands_for(first, out) if same and first is not None and first.requires_grad else out

    graph = torch.is_grad_enabled()
    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    try:
        with _Repairs(leak):
            yield
    finally:
        torch.set_grad_enabled(graph)
        torch.autograd.Function.apply = _APPLY  # type: ignore[method-assign]
