"""Other networks whose gradients may lead to adversarial images of a model.

They are the bundled models of the same data, and a network that is trained on the model's own answers.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..problem import checkpoints
from ..problem.architectures.digits_cnn import DigitsCNN
from ..problem.checkpoints import zoo
from ..problem.checkpoints.cards import read_card
from ..problem.classifier import Classifier
from ..problem.randomness import seeded
from ..problem.shapes import Inputs, Labels
from ..problem.threats import Ball

GUIDES = 2  # networks
STEPS = 400  # of the training of an imitation
ROWS = 64  # images of each step
SIDES = 8, 64  # pixels of the images for which it is trained
AGREEMENT = 0.5  # share of images on which a guide must predict as the model does


def guides(classifier: Classifier, data: str, weights_sha256: str, x: Inputs) -> Iterator[tuple[str, nn.Module]]:
    """Bundled models of the same data whose weights are on this machine, each by its name.

    Those come first whose predictions on the images `x` agree most with the model's; the model itself is none of them.
    """
    with torch.no_grad():
        predicted = classifier(x).argmax(dim=1)
    found: list[tuple[float, str, nn.Module]] = []
    for name in local_models(data.partition(":")[0]):
        try:
            guide = checkpoints.load(name, device=classifier.device).classifier
        except UserError:  # a damaged bundled model is no reason to end the check of another
            continue
        if (guide.shape, guide.classes) != (classifier.shape, classifier.classes):
            continue
        if guide.identity().weights_sha256 == weights_sha256:
            continue
        with torch.no_grad():
            agreement = float((guide(x).argmax(dim=1) == predicted).double().mean())
        if agreement >= AGREEMENT:
            found.append((agreement, name, guide.module))
    for _, name, module in sorted(found, key=lambda one: (-one[0], one[1]))[:GUIDES]:
        yield name, module


def local_models(data: str) -> Iterator[str]:
    """The bundled models of this data set whose weights need no download."""
    for name in zoo.zoo_names():
        card = read_card(path := zoo.zoo_card(name))
        if card.data.partition(":")[0] == data and zoo.has_weights(path, card):
            yield name


def imitates(classifier: Classifier) -> bool:
    """Whether images have a size for which `imitation` trains a network."""
    return all(SIDES[0] <= side <= SIDES[1] for side in classifier.shape[1:])


def imitation(classifier: Classifier, threat: Ball, x: Inputs, seed: int) -> nn.Module:
    """A network that is trained to name the classes that a model names, near some images.

    Substitute models, Papernot et al. 2017, https://arxiv.org/abs/1602.02697. It learns from shifted and mixed images,
    and from members of their threat sets at which it names another class than before; it reads labels alone, because
    scores may mislead. 2 * STEPS * ROWS queries of the model.
    """
    with seeded(seed, classifier.device), torch.enable_grad():
        net = DigitsCNN(classifier.shape, classifier.classes).to(classifier.device)
        adam = torch.optim.Adam(net.parameters(), lr=2e-3)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
        for _ in range(STEPS):
            images = _varied(x)
            hard = _harder(net, threat, images, _classes(classifier, images))
            both = torch.cat([images, hard])
            loss = F.cross_entropy(net(both), _classes(classifier, both))
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            rates.step()
    return net.eval().requires_grad_(False)


def _varied(x: Tensor) -> Inputs:
    """ROWS random images, shifted by up to two pixels, each mixed with a little of another."""
    rows = torch.randint(len(x), (2, ROWS)).to(x.device)
    shift = torch.randint(-2, 3, (2,)).tolist()
    images = x[rows[0]].roll(shift, dims=(2, 3))
    return images + 0.4 * torch.rand(ROWS, 1, 1, 1).to(x) * (x[rows[1]] - images)


def _harder(net: nn.Module, threat: Ball, images: Inputs, labels: Labels) -> Inputs:
    """Members of the threat sets of images, one step of the radius away from what the network names."""
    start = threat.sample(images, torch.randn_like(images))
    leaf = (images + start).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), labels), leaf)
    return images + threat.project(start + threat.r * threat.steepest(gradient), images)


def _classes(classifier: Classifier, images: Inputs) -> Labels:
    with torch.no_grad():
        labels: Labels = classifier(images).argmax(dim=1)
    return labels
