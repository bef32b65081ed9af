"""The loss around one image, on a square and along lines: the surface that gradient attacks ascend."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UserError
from ..problem.classifier import Classifier, arithmetic
from ..problem.losses import cross_entropy, margin
from ..problem.noise import keyed, normal
from ..problem.randomness import seeded
from ..problem.threats import Ball

BATCH = 256  # images in one forward pass
PULL = 100.0  # how far outside the box a direction reaches before it is projected onto the set


@dataclass(frozen=True)
class Landscape:
    """The loss on a square: rows along the random direction, columns along the gradient, both from -reach to reach."""

    loss: Float[Tensor, "points points"]  # cross-entropy, in nats
    margin: Float[Tensor, "points points"]  # best wrong logit minus the correct one: positive where misclassified


def landscape(
    classifier: Classifier,
    threat: Ball,
    x: Float[Tensor, "1 C H W"],
    y: Int[Tensor, "1"],
    *,
    number: int,
    seed: int,
    points: int = 41,
    reach: float = 1.0,
) -> Landscape:
    """The loss around one image, in full float32; `reach` is in radii of the threat, `points` an odd count per side.

    One axis leads to the member of the set that lies furthest along the gradient of the cross-entropy. The other does
    the same for Gaussian noise in place of the gradient; the seed and the number of the example determine the noise.
    Images are clipped to [0, 1] before the model sees them. After Figure 3 of Madaan et al. 2021,
    https://arxiv.org/abs/2006.12135. Raises UserError if the model has no gradients.
    """
    device = classifier.device
    x, y = x.to(device), y.to(device)
    with arithmetic(device), seeded(seed, device):
        gradient = gradient_at(classifier, x, y)
        noise = normal(keyed(seed, torch.tensor([number]), restart=0), 0, x.cpu()).to(device)
        ascent, aside = _furthest(threat, gradient, x), _furthest(threat, noise, x)
        along = torch.linspace(-reach, reach, points, device=device)
        images = (
            x + (along[:, None].expand(points, points).reshape(-1, 1, 1, 1) * aside)
            + (along[None, :].expand(points, points).reshape(-1, 1, 1, 1) * ascent)
        ).clamp(0, 1)  # fmt: skip
        logits = logits_of(classifier, images)
    labels = y.expand(len(logits))
    return Landscape(
        loss=cross_entropy(logits, labels, labels).view(points, points).cpu(),
        margin=margin(logits, labels).view(points, points).cpu(),
    )


@dataclass(frozen=True)
class Lines:
    """The loss on lines from the image to the edge of the set: one along the gradient, the others at random."""

    loss: Float[Tensor, "lines points"]  # cross-entropy, in nats; the first line is the gradient's
    margin: Float[Tensor, "lines points"]  # best wrong logit minus the correct one: positive where misclassified
    predicted: float  # nats per radius: the increase along the first line, by the gradient at the image


def lines(
    classifier: Classifier,
    threat: Ball,
    x: Float[Tensor, "1 C H W"],
    y: Int[Tensor, "1"],
    *,
    number: int,
    seed: int,
    points: int = 21,
    random: int = 6,
) -> Lines:
    """The loss from one image to the member furthest along the gradient, and along `random` Gaussian directions.

    Computed in full float32, at `points` equal steps from 0 to one radius. The first random line is that of the
    landscape. All images lie in the set, because it is convex. Raises UserError if the model has no gradients.
    """
    device = classifier.device
    x, y = x.to(device), y.to(device)
    with arithmetic(device), seeded(seed, device):
        gradient = gradient_at(classifier, x, y)
        key = keyed(seed, torch.tensor([number]), restart=0)
        noises = [normal(key, restart, x.cpu()).to(device) for restart in range(random)]
        steps = torch.cat([_furthest(threat, direction, x) for direction in (gradient, *noises)])
        part = torch.linspace(0, 1, points, device=device).view(1, points, 1, 1, 1)
        logits = logits_of(classifier, (x[:, None] + part * steps[:, None]).flatten(0, 1).clamp(0, 1))
    labels = y.expand(len(logits))
    return Lines(
        loss=cross_entropy(logits, labels, labels).view(-1, points).cpu(),
        margin=margin(logits, labels).view(-1, points).cpu(),
        predicted=float((gradient * steps[:1]).sum()),
    )


def logits_of(classifier: Classifier, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:
    """The logits without a graph, computed in batches of `BATCH`."""
    with torch.no_grad():
        return torch.cat([classifier(some).float() for some in torch.split(images, BATCH)])


def _furthest(threat: Ball, direction: Tensor, x: Tensor) -> Tensor:
    """The step to the member furthest along a direction; 0 if the direction is 0."""
    longest = direction.abs().amax()
    return threat.nearest(direction * (PULL / longest), x) if longest > 0 else torch.zeros_like(x)


def gradient_at(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the cross-entropy at `x`. Raises UserError if the model has none."""
    x = x.detach().requires_grad_(True)
    loss = cross_entropy(classifier(x).float(), y, y).sum()
    if not loss.requires_grad:
        raise UserError(f"{classifier.name} gives no gradients, so its loss cannot be drawn along one; leave it out")
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient
