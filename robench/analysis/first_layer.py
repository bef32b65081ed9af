"""The filters of a model's first layer, and the loss as black pixels rise past their thresholds.

After section 4 and Figure 3 of Tramèr and Boneh 2019, https://arxiv.org/abs/1904.13000: a network trained under linf
learns filters ReLU(a (x - radius)), whose output and gradient are 0 on black. Attacks under other norms can raise a
pixel past the threshold, but the gradient does not show it.
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
from .landscape import gradient_at, logits_of


@dataclass(frozen=True)
class Filters:
    """The filters of the first convolution."""

    weight: Float[Tensor, "filters C H W"]
    thresholds: Float[Tensor, "filters"]
    """The value from 0 to 1 at which one pixel on a black image makes an output of the filter positive: 0 if an output
    near it is positive on black already, infinite if no value up to 1 does.
    """


@dataclass(frozen=True)
class Rise:
    """The loss as black pixels rise to white, one at a time and all together."""

    pixels: tuple[tuple[int, int], ...]  # row and column
    loss: Float[Tensor, "pixels points"]  # cross-entropy, in nats, at equal steps from 0 to 1
    together: Float[Tensor, "points"]  # the same for all these pixels at once
    predicted: Float[Tensor, "pixels"]  # increase in nats from black to white, by the gradient at the image


def filters(classifier: Classifier, *, seed: int) -> Filters:
    """The filters of the first layer with weights that runs.

    Thresholds are measured through the model, so they account for normalisation before the layer. Raises UserError if
    that layer is not a convolution, or hooks cannot observe it.
    """
    shape, device = classifier.shape, classifier.device
    with arithmetic(device), seeded(seed, device):
        first, _ = _first(classifier, torch.zeros(1, *shape, device=device))
        # With a stride, each pixel is multiplied by only some of the weights; its neighbours cover the others.
        places = [(i, j) for i in range(first.stride[0]) for j in range(first.stride[1])]
        images = torch.zeros(1 + len(places), *shape, device=device)
        for image, (i, j) in zip(images[1:], places, strict=True):
            image[:, (shape[-2] // 2 + i) % shape[-2], (shape[-1] // 2 + j) % shape[-1]] = 1
        _, outputs = _first(classifier, images)
    on_black, gain = outputs[:1], outputs[1:] - outputs[:1]
    at = torch.where(gain > 0, -on_black / gain, torch.inf)
    at = torch.where((gain != 0) & (on_black > 0), torch.zeros_like(at), at)
    thresholds = at.amin(dim=(0, 2, 3))
    thresholds[thresholds > 1] = torch.inf
    return Filters(first.weight.detach().cpu(), thresholds.cpu())


def rise(
    classifier: Classifier,
    x: Float[Tensor, "1 C H W"],
    y: Int[Tensor, "1"],
    *,
    seed: int,
    pixels: int = 4,
    points: int = 41,
) -> Rise:
    """The loss as black pixels of an image rise to white, for those `pixels` that raise it most when white.

    All channels of a pixel rise together; of pixels with equal losses, the first are taken. Every black pixel costs one
    query to select, and the image must have one. Raises UserError if the model has no gradients.
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
        predicted=gradient[best[:, 0], best[:, 1]].cpu(),
    )


def black(image: Float[Tensor, "C H W"]) -> Bool[Tensor, "H W"]:
    """The pixels that are 0 in every channel."""
    return (image == 0).all(dim=0)


def _raised(x: Tensor, places: Tensor, value: Tensor) -> Tensor:
    """One image for each value, in which the pixels at `places` have that value."""
    images = x.repeat(len(value), 1, 1, 1)
    images[:, :, places[:, 0], places[:, 1]] = value[:, None, None]
    return images


def _loss(classifier: Classifier, images: Tensor, y: Tensor) -> Tensor:
    labels = y.expand(len(images))
    return cross_entropy(logits_of(classifier, images), labels, labels)


def _first(classifier: Classifier, images: Tensor) -> tuple[nn.Conv2d, Tensor]:
    """The first layer that runs, and its outputs for the images."""
    seen: list[tuple[nn.Module, Tensor]] = []

    def record(module: nn.Module, _: Any, output: Tensor) -> None:
        seen.append((module, output))

    # A weight with one axis belongs to a normalisation layer, which has no filters.
    layers = [
        m for m in classifier.module.modules() if isinstance(w := getattr(m, "weight", None), Tensor) and w.ndim > 1
    ]
    handles = [layer.register_forward_hook(record) for layer in layers if isinstance(layer, nn.Module)]
    try:
        with torch.no_grad():
            classifier(images)
    finally:
        for handle in handles:
            handle.remove()
    if not seen or not isinstance(seen[0][0], nn.Conv2d):
        raise UserError(f"{classifier.name} shows no convolution as its first layer, so no filters; leave it out")
    return seen[0][0], seen[0][1].float()
