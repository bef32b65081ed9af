"""The loss around one image, on a square and along lines: how the ground lies that gradient attacks climb."""

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

AT_ONCE = 256  # images in one forward pass
PULL = 100.0  # how far beyond the box a direction points before the nearest member is taken


@dataclass(frozen=True)
class Landscape:
    """Rows go along the random direction, columns along the gradient, both from -reach to reach."""

    loss: Float[Tensor, "points points"]  # cross-entropy, in nats
    margin: Float[Tensor, "points points"]  # best wrong logit minus the right one: positive where it is misclassified


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
    """Around one image, in full float32; `reach` is in radii of the threat, `points` an odd count per side.

    One axis leads to the member of the set that lies furthest along the gradient of the cross-entropy, the other to
    that for Gaussian noise in place of the gradient, fixed by the seed and the number of the example. Images are
    cut to [0, 1]: the model is asked about nothing else. After Figure 3 of Madaan et al. 2021,
    https://arxiv.org/abs/2006.12135. Raises UserError where the model has no gradients.
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
        logits = answers(classifier, images)
    right = y.expand(len(logits))
    return Landscape(
        loss=cross_entropy(logits, right, right).view(points, points).cpu(),
        margin=margin(logits, right).view(points, points).cpu(),
    )


@dataclass(frozen=True)
class Lines:
    """From the image to the edge of the set, once along the gradient and some times at random."""

    loss: Float[Tensor, "lines points"]  # cross-entropy, in nats; the first line is the gradient's
    margin: Float[Tensor, "lines points"]  # best wrong logit minus the right one: positive where it is misclassified
    promised: float  # nats per radius: what the gradient at the image says of the first line


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
    """From one image to the member furthest along the gradient, and to those for `random` draws of Gaussian noise.

    In full float32, at `points` equal steps from 0 to one radius. The first random line is the landscape's. All images
    lie in the set: it is convex. Raises UserError where the model has no gradients.
    """
    device = classifier.device
    x, y = x.to(device), y.to(device)
    with arithmetic(device), seeded(seed, device):
        gradient = gradient_at(classifier, x, y)
        key = keyed(seed, torch.tensor([number]), restart=0)
        noises = [normal(key, restart, x.cpu()).to(device) for restart in range(random)]
        steps = torch.cat([_furthest(threat, direction, x) for direction in (gradient, *noises)])
        part = torch.linspace(0, 1, points, device=device).view(1, points, 1, 1, 1)
        logits = answers(classifier, (x[:, None] + part * steps[:, None]).flatten(0, 1).clamp(0, 1))
    right = y.expand(len(logits))
    return Lines(
        loss=cross_entropy(logits, right, right).view(-1, points).cpu(),
        margin=margin(logits, right).view(-1, points).cpu(),
        promised=float((gradient * steps[:1]).sum()),
    )


def answers(classifier: Classifier, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:
    """Logits without a graph, a few images at a time."""
    with torch.no_grad():
        return torch.cat([classifier(some).float() for some in torch.split(images, AT_ONCE)])


def _furthest(threat: Ball, direction: Tensor, x: Tensor) -> Tensor:
    """The step to the member furthest along a direction; no step where the direction is 0."""
    longest = direction.abs().amax()
    return threat.nearest(direction * (PULL / longest), x) if longest > 0 else torch.zeros_like(x)


def gradient_at(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """Of the cross-entropy. Raises UserError where the model has none."""
    x = x.detach().requires_grad_(True)
    loss = cross_entropy(classifier(x).float(), y, y).sum()
    if not loss.requires_grad:
        raise UserError(f"{classifier.name} gives no gradients, so there is no picture along one; leave it out")
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient
