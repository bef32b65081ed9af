"""What the first layer of a model looks for, and what the loss does as black pixels rise past its thresholds.

After section 4 and Figure 3 of Tramèr and Boneh 2019, https://arxiv.org/abs/1904.13000: a network trained under linf
learns filters ReLU(a (x - radius)), which are dead on black. Attacks under other norms may raise a pixel past the
threshold, and have no gradient that says so.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import UserError
from ..problem.classifier import Classifier, arithmetic
from ..problem.losses import cross_entropy
from ..problem.randomness import seeded
from .landscape import answers, gradient_at


@dataclass(frozen=True)
class Filters:
    """The convolution that meets the image first."""

    weight: Float[Tensor, "filters C H W"]
    wakes: Float[Tensor, "filters"]
    """The value from 0 to 1 at which one pixel on a black image makes an output of the filter positive: 0 where an
    output near it is on black already, infinite where no value up to 1 does.
    """


@dataclass(frozen=True)
class Rise:
    """What the loss does as black pixels rise to white, each alone and all together."""

    pixels: tuple[tuple[int, int], ...]  # row and column
    loss: Float[Tensor, "pixels points"]  # cross-entropy, in nats, at equal steps from 0 to 1
    together: Float[Tensor, "points"]  # the same, of all these pixels at once
    promised: Float[Tensor, "pixels"]  # nats from black to white, by the gradient at the image


def filters(classifier: Classifier, *, seed: int) -> Filters:
    """Of the first layer with weights that runs. Measured through the model, so normalisation before it counts.

    Raises UserError where that layer is no convolution, or none that can be seen.
    """
    shape, device = classifier.shape, classifier.device
    with arithmetic(device), seeded(seed, device):
        first, _ = _first(classifier, torch.zeros(1, *shape, device=device))
        # With a stride, a pixel meets some of the weights only: its neighbours meet the others.
        places = [(i, j) for i in range(first.stride[0]) for j in range(first.stride[1])]
        images = torch.zeros(1 + len(places), *shape, device=device)
        for image, (i, j) in zip(images[1:], places, strict=True):
            image[:, (shape[-2] // 2 + i) % shape[-2], (shape[-1] // 2 + j) % shape[-1]] = 1
        _, told = _first(classifier, images)
    dark, more = told[:1], told[1:] - told[:1]
    at = torch.where(more > 0, -dark / more, torch.inf)
    at = torch.where((more != 0) & (dark > 0), torch.zeros_like(at), at)
    wakes = at.amin(dim=(0, 2, 3))
    wakes[wakes > 1] = torch.inf
    return Filters(first.weight.detach().cpu(), wakes.cpu())


def rise(
    classifier: Classifier,
    x: Float[Tensor, "1 C H W"],
    y: Int[Tensor, "1"],
    *,
    seed: int,
    pixels: int = 4,
    points: int = 41,
) -> Rise:
    """Of the black pixels of an image those that raise the loss most when white, of equal ones the first; all channels
    of a pixel rise together. Asks about every black pixel once.

    The image has a black pixel. Raises UserError where the model has no gradients.
    """
    device = classifier.device
    x, y = x.to(device), y.to(device)
    places = black(x[0]).nonzero()
    assert len(places), "an image without a black pixel"
    with arithmetic(device), seeded(seed, device):
        gradient = gradient_at(classifier, x, y)[0].sum(dim=0)
        white = _loss(classifier, torch.cat([_raised(x, place[None], x.new_ones(1)) for place in places]), y)
        best = places[white.sort(descending=True, stable=True).indices[:pixels]]
        value = torch.linspace(0, 1, points, device=device)
        alone = torch.cat([_raised(x, place[None], value) for place in best])
        losses = _loss(classifier, torch.cat([alone, _raised(x, best, value)]), y).view(-1, points).cpu()
    return Rise(
        pixels=tuple((int(i), int(j)) for i, j in best),
        loss=losses[:-1],
        together=losses[-1],
        promised=gradient[best[:, 0], best[:, 1]].cpu(),
    )


def black(image: Float[Tensor, "C H W"]) -> Bool[Tensor, "H W"]:
    """Pixels that are 0 in every channel."""
    return (image == 0).all(dim=0)


def _raised(x: Tensor, places: Tensor, value: Tensor) -> Tensor:
    """An image per value, in which these pixels have it."""
    images = x.repeat(len(value), 1, 1, 1)
    images[:, :, places[:, 0], places[:, 1]] = value[:, None, None]
    return images


def _loss(classifier: Classifier, images: Tensor, y: Tensor) -> Tensor:
    right = y.expand(len(images))
    return cross_entropy(answers(classifier, images), right, right)


def _first(classifier: Classifier, images: Tensor) -> tuple[nn.Conv2d, Tensor]:
    """The layer, and what it gives for the images."""
    seen: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _: Any, told: Tensor) -> None:
        seen.append((module, told))

    # A weight with one axis belongs to a normalisation, which scales and moves but looks for nothing.
    layers = [
        m for m in classifier.module.modules() if isinstance(w := getattr(m, "weight", None), Tensor) and w.ndim > 1
    ]
    handles = [layer.register_forward_hook(note) for layer in layers if isinstance(layer, nn.Module)]
    try:
        with torch.no_grad():
            classifier(images)
    finally:
        for handle in handles:
            handle.remove()
    if not seen or not isinstance(seen[0][0], nn.Conv2d):
        raise UserError(f"{classifier.name} shows no convolution as its first layer, so no filters; leave it out")
    return seen[0][0], seen[0][1].float()
