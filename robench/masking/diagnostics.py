"""Diagnostics of a model's gradients: measurements that can reveal gradient masking.

They decide nothing. Each measurement has a name, and a number for each example or one for the whole model;
docs/concepts/masking.md gives the sources. All are taken in float32, at clean images and at random members of the
threat set.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..evidence.records import WHOLE
from ..problem.classifier import Classifier, arithmetic
from ..problem.losses import cross_entropy, margin
from ..problem.memory import out_of_memory
from ..problem.noise import keyed, normal, text_key, uniform
from ..problem.randomness import seeded
from ..problem.shapes import Inputs, Keys, Labels, PerExample, per_example
from ..problem.split import Split
from ..problem.threats import Ball, inward
from ..results.masking.indicators import GAIN_FACTOR, MIN_COSINE

SHUFFLES = 19  # steps with the same entries in another order: by chance one is as good as the gradient once in 20
REACHES = (0.05, 0.25, 1.0)  # of a step, in radii
AT_ONCE = 256  # images in one pass
SMALL_STEP = 0.01  # of a difference quotient, Euclidean
ASIDE = 8  # random directions in which differences are compared with the gradient
HALVINGS = 14  # of the line to an image of another class
LONGER_STEPS = (0.03, 0.1)  # of differences along the gradient, Euclidean
MARGIN = 0.03  # how far images are moved away from black and white, and the longer step aside for each pixel
NOISY = 8  # images of noise, dark and bright, that show whether a model ever changes its answer


@dataclass(frozen=True)
class Measured:
    """A named number. `example` is WHOLE, and `threat` empty, if it concerns the whole model."""

    threat: str
    example: int
    name: str
    value: float


def of_model(classifier: Classifier, split: Split, seed: int) -> Iterator[Measured]:
    """Measurements that need no threat, from a few clean images.

    `repeatable`: 1 if the same images get the same logits twice. `alone`: the largest change of a logit, in standard
    deviations of all, when an image is alone in its batch. `training layers`: the number of layers in training mode,
    and of batch norms without statistics of their own. `inner gradients`: the number of gradients taken during one
    forward pass. `probabilities`, `log-probabilities`, `one-hot`: 1 if every row of the output is one. `spread`: the
    median standard deviation of the logits of an image. `no gradient`: 1 if computing one raises. `constant`: 1 if
    these images and noise all get the same logits. `misled`: 1 if `caution` warns of the gradients at these images.

    Running out of memory is raised, not measured.
    """
    device = classifier.device
    x, y = split.x.to(device), split.y.to(device)
    with arithmetic(device), seeded(seed, device):
        with torch.no_grad():
            logits, again = classifier(x), classifier(x)
            alone = torch.cat([classifier(x[i : i + 1]) for i in range(min(4, len(x)))])
        outputs = logits.double()
        spread = outputs.std(dim=1)
        apart = (alone.double() - outputs[: len(alone)]).abs().amax() / spread[: len(alone)].mean()
        with _counted_gradients() as gradients, torch.no_grad():
            classifier(x[:2])
        values = {
            "repeatable": float(torch.equal(logits, again)),
            "alone": apart.item() if spread.mean() > 0 else 0.0,
            "training layers": float(sum(map(_in_training, classifier.module.modules()))),
            "inner gradients": float(gradients()),
            "probabilities": float(_rows_sum_to_one(outputs)),
            "log-probabilities": float(_rows_sum_to_one(outputs.exp()) and bool((outputs <= 0).all())),
            "one-hot": float(bool(((outputs == 0) | (outputs == 1)).all()) and bool((outputs.sum(dim=1) == 1).all())),
            "spread": spread.median().item(),
            "no gradient": float(_gradient(classifier, x[:2], y[:2]) is None),
            "constant": float(_is_constant(classifier, logits)),
            "misled": float(bool(caution(classifier, split))),
        }
    yield from (Measured("", WHOLE, name, value) for name, value in values.items())


def of_threat(classifier: Classifier, threat: Ball, split: Split, seed: int) -> Iterator[Measured]:
    """Measurements of each example under a threat. They cost 5 gradients and 98 forward passes for each.

    They are taken at the image and at a random member of its set, the start.
    `zero`, `not finite`: the share of the two places at which the gradient of the margin is exactly 0, or not finite.
    A gradient that raises counts as 0. `loss zero`: the share at which that of the cross-entropy is 0.
    `norm`: the Euclidean norm of the margin's gradient at the start.
    `blind`: the share of pixels in which the gradient is 0 at both places. `slope`: the gain of the margin along the
    gradient over a short way, from both sides, over the gain that the gradient promises; 1 for a correct gradient.
    `aside`: the cosine between such gains in ASIDE random directions and those that the gradient promises there; a
    gradient that lacks a part may be right along itself, and is wrong aside.
    `leads`: 1 if some step along the gradient gains more than the same step with its entries in another order, in
    each of SHUFFLES orders; a useless gradient is that lucky once in 7. `same`: 1 if a small step in a random
    direction changes no logit. `agrees`: the cosine between two gradients at one place. `jump`: the difference of the
    two largest logits where the class changes, on the line to an image of another class, over that at the image.

    Batches are halved until they fit the memory. Raises the error if one image does not.
    """
    device = classifier.device
    keys = keyed(seed, torch.tensor(split.numbers), text_key(f"probes {threat}"), restart=0)

    def measure(rows: slice) -> dict[str, PerExample]:
        x, y = split.x[rows].to(device), split.y[rows].to(device)
        return _of_rows(classifier, threat, x, y, keys[rows].to(device))

    with arithmetic(device), seeded(seed, device):
        for rows, values in _in_batches(measure, len(split)):
            columns = {name: value.double().cpu().tolist() for name, value in values.items()}
            for i, number in enumerate(split.numbers[rows]):
                for name, column in columns.items():
                    yield Measured(str(threat), number, name, column[i])


def caution(classifier: Classifier, split: Split) -> str:
    """A warning, in a sentence, if the gradients at most of these images mislead; empty if they do not.

    They are not numbers, or exactly 0; or differences of the margin contradict them, as `slope` and `aside` of
    `of_threat` measure it, over steps that are longer than there: a model in low precision rounds short ones away, and
    the outputs of one that oscillates agree with its gradient over those alone. Both lengths must contradict. It takes
    two gradients and 18 or 36 forward passes, and assumes that the model does not answer at random. Where the model or
    its gradient raises, attacks will report it.
    """
    device = classifier.device
    x, y = split.x.to(device), split.y.to(device)
    inside = MARGIN + (1 - 2 * MARGIN) * x  # so that no step leaves the box
    keys = keyed(0, torch.tensor(split.numbers), text_key("caution"), restart=0).to(device)
    steps = list(zip(LONGER_STEPS, (LONGER_STEPS[0], MARGIN * x[0].numel() ** 0.5), strict=True))
    try:
        with arithmetic(device), seeded(0, device):
            gradients = [_gradient(classifier, place, y) for place in (x, inside)]
            if any(gradient is None for gradient in gradients):
                return ""
            at_images, gradient = (_or_zero(g, x) for g in gradients)
            contradicted = torch.ones(len(x), dtype=torch.bool, device=device)
            for along, aside in steps:
                if 2 * int(contradicted.sum()) > len(x):
                    contradicted &= _contradicted(classifier, inside, y, gradient, keys, along, aside)
    except Exception:
        return ""
    not_finite = ~at_images.flatten(1).isfinite().all(dim=1)
    found = {
        "are not numbers": not_finite,
        "are exactly 0": _is_zero(at_images),
        "contradict differences of the outputs": contradicted | not_finite | _is_zero(at_images),
    }
    for what, rows in found.items():
        if 2 * (images := int(rows.sum())) > len(x):
            return (
                f"gradients {what} on {images} of the first {len(x)} images, so attacks that read them may fail;"
                " without --masking on, or attacks that read labels, such as --attack hop-skip-jump, the number may be"
                " far too high"
            )
    return ""


def _contradicted(
    classifier: Classifier, place: Inputs, y: Labels, gradient: Inputs, keys: Keys, along: float, aside: float
) -> Tensor:
    """Whether differences over steps of these Euclidean lengths contradict the gradient, along it or in others."""
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    slope = _slope(classifier, place, y, gradient, along)
    cosine = _aside(classifier, place, y, gradient, keys, aside)
    return (slope < 1 / GAIN_FACTOR) | (slope > GAIN_FACTOR) | (cosine < MIN_COSINE)


def _in_batches(
    measure: Callable[[slice], dict[str, PerExample]], n: int
) -> Iterator[tuple[slice, dict[str, PerExample]]]:
    """The measurements of n rows, at most AT_ONCE at once, and fewer if the memory is too small."""
    first, size = 0, min(AT_ONCE, n)
    while first < n:
        rows = slice(first, first + size)
        try:
            values = measure(rows)
        except Exception as error:
            if size == 1 or not out_of_memory(error):
                raise
            size //= 2
            continue
        yield rows, values
        first += size


def _of_rows(classifier: Classifier, threat: Ball, x: Inputs, y: Labels, keys: Keys) -> dict[str, PerExample]:
    start = x + threat.sample(x, normal(keys, 0, x))
    places = (x, start)
    margins = [_or_zero(_gradient(classifier, place, y), x) for place in places]
    losses = [_or_zero(_gradient(classifier, place, y, cross_entropy), x) for place in places]
    again = _or_zero(_gradient(classifier, start, y), x).nan_to_num(0.0, 0.0, 0.0)
    finite = [g.flatten(1).isfinite().all(dim=1) for g in margins]
    clean, at_start = (g.nan_to_num(0.0, 0.0, 0.0) for g in margins)
    return {
        "zero": _share(_is_zero(g) for g in margins),
        "not finite": _share(~f for f in finite),
        "loss zero": _share(_is_zero(g) for g in losses),
        "norm": _length(at_start),
        "blind": ((clean == 0) & (at_start == 0)).flatten(1).double().mean(dim=1),
        "slope": _slope(classifier, start, y, at_start),
        "aside": _aside(classifier, start, y, at_start, keys),
        "leads": _leads(classifier, threat, x, start, y, at_start, keys).double(),
        "same": _same(classifier, threat, start, keys).double(),
        "agrees": _cosine(at_start, again),
        "jump": _jump(classifier, x),
    }


def _leads(
    classifier: Classifier, threat: Ball, x: Inputs, start: Inputs, y: Labels, gradient: Inputs, keys: Keys
) -> Tensor:
    """Whether a step along the gradient beats every step with its entries shuffled, for some reach.

    Only entries that the box allows to move are shuffled, so that the box shortens no step.
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


def _slope(classifier: Classifier, place: Inputs, y: Labels, gradient: Inputs, reach: float = SMALL_STEP) -> PerExample:
    """The difference quotient along the gradient, divided by the gradient's length; 0 for a zero gradient."""
    length = _length(gradient)
    along = (gradient.double() / per_example(length.clamp(min=1e-300), gradient)).to(place.dtype) * reach
    rise = _margin(classifier, place + along, y) - _margin(classifier, place - along, y)
    return torch.where(length > 0, rise / (2 * reach * length.clamp(min=1e-300)), 0.0).nan_to_num(0.0)


def _aside(
    classifier: Classifier, place: Inputs, y: Labels, gradient: Inputs, keys: Keys, reach: float = SMALL_STEP
) -> PerExample:
    """The cosine between difference quotients in random directions and the gradient's; 1 where both are all 0."""
    rises, promised = [], []
    for k in range(ASIDE):
        noise = normal(keys, 2 * SHUFFLES + 2 + k, place)
        step = noise / per_example(_length(noise), noise).to(place.dtype) * reach
        rises.append(_margin(classifier, place + step, y) - _margin(classifier, place - step, y))
        promised.append((2 * gradient.double() * step).flatten(1).sum(dim=1))
    gains, gradients = torch.stack(rises, dim=1).nan_to_num(0.0, 0.0, 0.0), torch.stack(promised, dim=1)
    lengths = gains.norm(dim=1) * gradients.norm(dim=1)
    flat = (gains == 0).all(dim=1) & (gradients == 0).all(dim=1)
    return torch.where(flat, 1.0, (gains * gradients).sum(dim=1) / lengths.clamp(min=1e-300))


def _same(classifier: Classifier, threat: Ball, start: Inputs, keys: Keys) -> Tensor:
    aside = threat.steepest(normal(keys, 2 * SHUFFLES + 1, start)) * REACHES[0] * threat.r
    with torch.no_grad():
        first, second = classifier(start), classifier((start + aside).clamp(0, 1))
    return (first == second).all(dim=1)


@torch.no_grad()
def _jump(classifier: Classifier, x: Inputs) -> PerExample:
    """The gap between the two largest logits next to a change of the class, over that at the image.

    The change is found by halving the line to the next image of another class. Scores that rank the classes as the
    model does are nearly equal there. 0 where all images have one class.
    """
    logits = classifier(x).double()
    if logits.shape[1] < 2:
        return torch.zeros_like(logits[:, 0])
    predicted = logits.argmax(dim=1)
    after = torch.stack([predicted.roll(-k) for k in range(1, len(x) + 1)], dim=1)  # row, distance
    partner = (torch.arange(len(x), device=x.device) + 1 + (after != predicted[:, None]).int().argmax(dim=1)) % len(x)
    low, high = x, x[partner]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        same = per_example(classifier(middle).argmax(dim=1) == predicted, middle)
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    sides = torch.minimum(_gap(classifier(low).double()), _gap(classifier(high).double()))
    share = (sides / _gap(logits).clamp(min=1e-300)).nan_to_num(0.0)
    return torch.where(predicted[partner] == predicted, 0.0, share)


def _gap(logits: Tensor) -> PerExample:
    best: Tensor = logits.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def _is_constant(classifier: Classifier, logits: Tensor) -> bool:
    """Whether images, and noise that is dark or bright, have the same logits."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(NOISY, *classifier.shape, generator=generator).to(logits.device)
    with torch.no_grad():
        outputs = torch.cat([logits, classifier(noise), classifier(1 - noise / 4)])
    return bool((outputs == outputs[0]).all())


def _margin(classifier: Classifier, x: Inputs, y: Labels) -> PerExample:
    with torch.no_grad():
        return margin(classifier(x).double(), y)


def _gradient(classifier: Classifier, x: Inputs, y: Labels, loss: Callable[..., PerExample] = margin) -> Inputs | None:
    """The gradient of a loss at some images; None if computing it raises. Running out of memory is raised."""
    leaf = x.detach().clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            total = loss(classifier(leaf), y, y).sum()
            (gradient,) = torch.autograd.grad(total, leaf)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        return None  # there is no graph, or it does not lead to the images
    return gradient.detach()


def _or_zero(gradient: Inputs | None, x: Inputs) -> Inputs:
    return torch.zeros_like(x) if gradient is None else gradient


def _cosine(one: Inputs, other: Inputs) -> PerExample:
    """The cosine between gradients; 1 for equal ones, also if they are 0."""
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
    """Whether a layer computes from the batch, or at random, as in training."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_mean is None
    return module.training and not list(module.children())


@contextmanager
def _counted_gradients() -> Iterator[Callable[[], int]]:
    """Counts the gradients that the code within takes, except those of TorchScript."""
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
