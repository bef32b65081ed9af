"""What a model's gradients look like from outside: measurements from which gradient masking may be read.

Nothing here decides anything. Each measurement has a name, a number per example or one for the whole model, and its
source in docs/masking.md. All are taken in float32, on clean images and at random members of the threat set.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..problem.classifier import Classifier, arithmetic
from ..problem.losses import cross_entropy, margin
from ..problem.noise import keyed, normal, text_key, uniform
from ..problem.randomness import seeded
from ..problem.shapes import Inputs, Keys, Labels, PerExample, per_example
from ..problem.split import Split
from ..problem.threats import Ball, inward

WHOLE = -1  # stands for the model where a measurement is about no single example
SHUFFLES = 19  # steps with the same entries in another order: as good as the gradient by chance once in 20
REACHES = (0.05, 0.25, 1.0)  # of a step, in radii
AT_ONCE = 256  # images in one pass
SMALL_STEP = 0.01  # of a difference quotient, Euclidean


@dataclass(frozen=True)
class Measured:
    """A number with its name; `example` is WHOLE, and `threat` empty, where it is about the model as such."""

    threat: str
    example: int
    name: str
    value: float


def of_model(classifier: Classifier, split: Split, seed: int) -> Iterator[Measured]:
    """What can be told without a threat, from a few clean images.

    `repeatable`: 1 where the same images get the same logits twice. `alone`: the largest change of a logit, in
    standard deviations of all, when an image is asked about alone instead of among others. `training layers`: layers
    in training mode, and batch norms without statistics of their own. `inner gradients`: gradients taken during one
    forward pass. `probabilities`, `log-probabilities`, `one-hot`: 1 where every row of the output is one. `spread`:
    the median standard deviation of the logits of an image. `no gradient`: 1 where asking for one raises.
    """
    device = classifier.device
    x, y = split.x.to(device), split.y.to(device)
    with arithmetic(device), seeded(seed, device):
        with torch.no_grad():
            logits, again = classifier(x), classifier(x)
            alone = torch.cat([classifier(x[i : i + 1]) for i in range(min(4, len(x)))])
        told = logits.double()
        spread = told.std(dim=1)
        apart = (alone.double() - told[: len(alone)]).abs().amax() / spread[: len(alone)].mean()
        with _counted_gradients() as gradients, torch.no_grad():
            classifier(x[:2])
        values = {
            "repeatable": float(torch.equal(logits, again)),
            "alone": apart.item() if spread.mean() > 0 else 0.0,
            "training layers": float(sum(map(_in_training, classifier.module.modules()))),
            "inner gradients": float(gradients()),
            "probabilities": float(_rows_sum_to_one(told)),
            "log-probabilities": float(_rows_sum_to_one(told.exp()) and bool((told <= 0).all())),
            "one-hot": float(bool(((told == 0) | (told == 1)).all()) and bool((told.sum(dim=1) == 1).all())),
            "spread": spread.median().item(),
            "no gradient": float(_gradient(classifier, x[:2], y[:2]) is None),
        }
    yield from (Measured("", WHOLE, name, value) for name, value in values.items())


def of_threat(classifier: Classifier, threat: Ball, split: Split, seed: int) -> Iterator[Measured]:
    """What can be told about each example under a threat. Costs 5 gradients and 65 forward passes each.

    Taken at the image and at a random member of its set, the start:
    `zero`, `not finite`: the share of the two places at which the gradient of the margin is exactly 0, or no number.
    `loss zero`: the same as `zero` for the cross-entropy. `norm`: of the margin's gradient at the start, Euclidean.
    `blind`: the share of pixels in which it is 0 at both places. `slope`: what the margin gains along the gradient over
    a short way, from both sides, over what the gradient promises; 1 for a gradient that tells the truth. `leads`: 1
    where some step along it gains more than the same step with its entries in another order does, in each of
    SHUFFLES orders; a useless gradient has that luck once in 7. `same`: 1 where a small step in a random direction
    changes no logit. `agrees`: the cosine between two gradients asked for at one place.
    """
    device = classifier.device
    keys = keyed(seed, torch.tensor(split.numbers), text_key(f"probes {threat}"), restart=0)
    with arithmetic(device), seeded(seed, device):
        for some in range(0, len(split), AT_ONCE):
            rows = slice(some, some + AT_ONCE)
            x, y = split.x[rows].to(device), split.y[rows].to(device)
            values = _of_rows(classifier, threat, x, y, keys[rows].to(device))
            columns = {name: value.double().cpu().tolist() for name, value in values.items()}
            for i, number in enumerate(split.numbers[rows]):
                for name, column in columns.items():
                    yield Measured(str(threat), number, name, column[i])


def _of_rows(classifier: Classifier, threat: Ball, x: Inputs, y: Labels, keys: Keys) -> dict[str, PerExample]:
    start = x + threat.sample(x, normal(keys, 0, x))
    places = (x, start)
    gradients = [_gradient(classifier, place, y) for place in places]
    losses = [_gradient(classifier, place, y, cross_entropy) for place in places]
    again = _gradient(classifier, start, y)
    given = [torch.zeros_like(x) if g is None else g for g in gradients]
    lost = [torch.zeros_like(x) if g is None else g for g in losses]
    finite = [g.flatten(1).isfinite().all(dim=1) for g in given]
    clean = [g.nan_to_num(0.0, 0.0, 0.0) for g in given]
    at_start = clean[1]
    second = torch.zeros_like(x) if again is None else again.nan_to_num(0.0, 0.0, 0.0)
    return {
        "zero": _share(_is_zero(g) for g in given),
        "not finite": _share(~f for f in finite),
        "loss zero": _share(_is_zero(g) for g in lost),
        "norm": _length(at_start),
        "blind": ((clean[0] == 0) & (at_start == 0)).flatten(1).double().mean(dim=1),
        "slope": _slope(classifier, start, y, at_start),
        "leads": _leads(classifier, threat, x, start, y, at_start, keys).double(),
        "same": _same(classifier, threat, start, keys).double(),
        "agrees": _cosine(at_start, second),
    }


def _leads(
    classifier: Classifier, threat: Ball, x: Inputs, start: Inputs, y: Labels, gradient: Inputs, keys: Keys
) -> Tensor:
    """Whether a step along the gradient beats every step with its entries shuffled, for some reach.

    Only entries that the box lets move are shuffled among each other, so that no step is shorter for its place.
    """
    ascent = threat.steepest(inward(gradient, start - x, x)).flatten(1)
    orders = [ascent]
    for restart in range(1, SHUFFLES + 1):
        noise = uniform(keys, restart, ascent.shape[1])
        signs = (uniform(keys, SHUFFLES + restart, ascent.shape[1]) > 0.5) * 2 - 1
        orders.append(signs * ascent.gather(1, noise.argsort(dim=1)))
    led = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    base = _margin(classifier, start, y)
    for reach in REACHES:
        rises = [
            _margin(classifier, (start + reach * threat.r * step.view_as(x)).clamp(0, 1), y) - base for step in orders
        ]
        best = torch.stack(rises[1:]).nan_to_num(-torch.inf).amax(dim=0)
        led |= (rises[0] > best) & (rises[0] > 0)
    return led


def _slope(classifier: Classifier, place: Inputs, y: Labels, gradient: Inputs) -> PerExample:
    """The difference quotient along the gradient over the gradient's length; 0 where there is no gradient."""
    length = _length(gradient)
    along = (gradient.double() / per_example(length.clamp(min=1e-300), gradient)).to(place.dtype) * SMALL_STEP
    rise = _margin(classifier, place + along, y) - _margin(classifier, place - along, y)
    return torch.where(length > 0, rise / (2 * SMALL_STEP * length.clamp(min=1e-300)), 0.0).nan_to_num(0.0)


def _same(classifier: Classifier, threat: Ball, start: Inputs, keys: Keys) -> Tensor:
    aside = threat.steepest(normal(keys, 2 * SHUFFLES + 1, start)) * REACHES[0] * threat.r
    with torch.no_grad():
        first, second = classifier(start), classifier((start + aside).clamp(0, 1))
    return (first == second).all(dim=1)


def _margin(classifier: Classifier, x: Inputs, y: Labels) -> PerExample:
    with torch.no_grad():
        return margin(classifier(x).double(), y)


def _gradient(classifier: Classifier, x: Inputs, y: Labels, loss: Callable[..., PerExample] = margin) -> Inputs | None:
    """Of a loss at some images; None where asking for it raises."""
    leaf = x.detach().clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            total = loss(classifier(leaf), y, y).sum()
            (gradient,) = torch.autograd.grad(total, leaf)
    except RuntimeError:  # no graph, or one that does not lead to the images
        return None
    return gradient.detach()


def _cosine(one: Inputs, other: Inputs) -> PerExample:
    """1 also where both are the same without a direction."""
    product = (one.double() * other.double()).flatten(1).sum(dim=1)
    same = (one == other).flatten(1).all(dim=1)
    return torch.where(same, 1.0, product / (_length(one) * _length(other)).clamp(min=1e-300))


def _is_zero(gradient: Inputs) -> Tensor:
    return (gradient == 0).flatten(1).all(dim=1)


def _share(masks: Iterator[Tensor]) -> PerExample:
    return torch.stack([mask.double() for mask in masks]).mean(dim=0)


def _length(gradient: Inputs) -> PerExample:
    return gradient.flatten(1).double().square().sum(dim=1).sqrt()


def _rows_sum_to_one(rows: Tensor) -> bool:
    return bool(((rows.sum(dim=1) - 1).abs() < 1e-3).all()) and bool(((rows >= 0) & (rows <= 1)).all())


def _in_training(module: nn.Module) -> bool:
    """Whether a layer computes from the batch, or at random, as if it were being trained."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_mean is None
    return module.training and not list(module.children())


@contextmanager
def _counted_gradients() -> Iterator[Callable[[], int]]:
    """How often the code within takes a gradient. TorchScript does so unseen."""
    count = 0
    grad, backward = torch.autograd.grad, torch.Tensor.backward

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return function(*args, **kwargs)

        return call

    torch.autograd.grad = counted(grad)
    torch.Tensor.backward = counted(backward)  # type: ignore[method-assign]
    try:
        yield lambda: count
    finally:
        torch.autograd.grad = grad
        torch.Tensor.backward = backward  # type: ignore[method-assign]
