"""Surrogates of a model: the same forward pass with a useful backward pass, for models whose gradients mislead.

The forward pass does not change, so every find of an attack is a find on the model; the referee still judges it with
the unchanged model. Backward Pass Differentiable Approximation, Athalye et al. 2018,
https://arxiv.org/abs/1802.00420. Here the functions to approximate are found while the model runs; there an expert
names them.
"""

import torch
from torch import Tensor, nn

from ..problem.classifier import Classifier
from ..problem.repairs import repairs
from ..problem.shapes import Inputs, Logits
from ..problem.threats import Ball
from .script_graph import readable

AGREEMENT = 0.9  # share of images on which an inner layer must predict as the model does, to stand for it
LEAKY_SLOPE = 0.1  # of a dead unit, in a surrogate that leaks
SHARPNESS = 10.0  # of the derivative of steps near their thresholds
NEARBY = 8  # images whose gradients are averaged
AWAY = 0.5  # where these lie, as a share of the way from the image to random members of its threat set


def bpda(
    classifier: Classifier, *, differentiates: bool = False, leak: float = 0.0, sharpness: float = 0.0
) -> Classifier:
    """A surrogate in which functions without a useful derivative have that of the identity.

    These functions are steps, comparisons that become numbers, cuts, saturating functions, casts, places in tables, and
    the model's own autograd functions. Sines have none, and a dead ReLU the derivative `leak`. With a `sharpness`, the
    derivative of steps, comparisons, tanh and sigmoid falls with the distance from their threshold. Calls that cut the
    graph (detach, no_grad) and hooks that change gradients have no effect. Programs of TorchScript must be read
    operator by operator (`opened`); else they stay as they are. For a model that `differentiates` in its forward pass,
    other derivatives would change the answer, so its logits come from a second, unchanged pass.
    """
    return _with(classifier, _BPDA(classifier.module, differentiates, leak, sharpness))


def same_gradients(one: Classifier, other: Classifier, x: Inputs) -> bool:
    """Whether two surrogates have equal gradients on these images, or none."""

    def gradient(classifier: Classifier) -> Tensor:
        leaf = x.clone().requires_grad_()
        with torch.enable_grad():
            logits = classifier(leaf)
            if not logits.requires_grad:
                return torch.zeros_like(x)
            margins = logits.amax(dim=1) - logits.mean(dim=1)
            (found,) = torch.autograd.grad(margins.sum(), leaf, allow_unused=True)
        return torch.zeros_like(x) if found is None else found.nan_to_num()

    return torch.equal(gradient(one), gradient(other))


def opened(classifier: Classifier, x: Inputs) -> Classifier:
    """The classifier with compiled programs read operator by operator, where that is possible. `x` are some images."""
    module = readable(classifier.module, x)
    return classifier if module is classifier.module else _with(classifier, module)


def inner_layer(classifier: Classifier, x: Inputs, *, differentiates: bool = False) -> Classifier | None:
    """A surrogate with the logits of an inner layer: the value inside that best predicts what the model does.

    Values are the outputs of torch functions, as numbered in the order of their calls; the first of the best, chosen on
    the images `x`. The surrogate answers with the layer's logits if they name the model's class, else with the model's
    own; its gradient is always the layer's. None if no such value agrees, by other numbers, on AGREEMENT of the images.
    """
    values: list[Tensor] = []
    shape = (len(x), classifier.classes)
    with torch.no_grad():
        answer = classifier(x)
        with repairs(watch=lambda value: _note(values, value, shape)):
            classifier.module(x.clone())
    predicted = answer.argmax(dim=1)
    agreeing = [
        (float((logits.argmax(dim=1) == predicted).double().mean()), -place)
        for place, logits in enumerate(values)
        if bool(logits.isfinite().all()) and not torch.equal(logits, answer)
    ]
    agreement, place = max(agreeing, default=(0.0, 0))
    if agreement < AGREEMENT:
        return None
    return _with(classifier, _InnerLayer(classifier.module, differentiates, -place))


def guided(classifier: Classifier, guide: nn.Module) -> Classifier:
    """A surrogate with the gradient of another network, and its logits where these name the model's class.

    The black-box attack by transfer, Papernot et al. 2017, https://arxiv.org/abs/1602.02697; here the model itself
    answers at every step, so the search stops at the first image that fools it.
    """
    return _with(classifier, _Guided(classifier.module, guide))


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


def _with(classifier: Classifier, module: nn.Module) -> Classifier:
    """The classifier with another module, of the same weights."""
    about = {"architecture": classifier.architecture, "normalisation": classifier.normalisation}
    return Classifier(module, name=classifier.name, shape=classifier.shape, classes=classifier.classes, **about)


class _BPDA(nn.Module):
    def __init__(self, module: nn.Module, differentiates: bool, leak: float = 0.0, sharpness: float = 0.0):
        super().__init__()
        self.module = module
        self.differentiates = differentiates
        self.leak = leak
        self.sharpness = sharpness

    def forward(self, x: Inputs) -> Logits:
        with repairs(self.leak, sharpness=self.sharpness, rows=len(x)):
            logits: Tensor = self.module(x)
        logits = logits.float()  # attacks compute in float32, whatever the model's own precision
        return self.value(x) + (logits - logits.detach()) if self.differentiates else logits

    def value(self, x: Inputs) -> Logits:
        """The unchanged model's logits."""
        with torch.no_grad():
            logits: Tensor = self.module(x)
        return logits.float()


class _InnerLayer(_BPDA):
    def __init__(self, module: nn.Module, differentiates: bool, place: int):
        super().__init__(module, differentiates)
        self.place = place  # among the values with the shape of the logits

    def forward(self, x: Inputs) -> Logits:
        values: list[Tensor] = []
        with repairs(self.leak, watch=lambda value: _note(values, value)):
            logits: Tensor = self.module(x)
            shaped = [value for value in values if value.shape == logits.shape]
        inner = shaped[min(self.place, len(shaped) - 1)]
        return _in_place_of(self.value(x) if self.differentiates else logits, inner)


class _Guided(nn.Module):
    def __init__(self, module: nn.Module, guide: nn.Module):
        super().__init__()
        self.module = module
        self.guide = guide

    def forward(self, x: Inputs) -> Logits:
        with torch.no_grad():
            logits: Tensor = self.module(x.clone())
        guiding: Tensor = self.guide(x)
        return _in_place_of(logits, guiding)


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


def _note(values: list[Tensor], value: Tensor, shape: tuple[int, ...] | None = None) -> None:
    """Add a value that could be logits."""
    fits = value.ndim == 2 if shape is None else value.shape == shape
    if fits and value.is_floating_point():
        values.append(value)
