"""Other networks whose gradients may lead to adversarial images of a model: the bundled models of the same data."""

from collections.abc import Iterator

import torch
from torch import nn

from ..errors import UserError
from ..problem import checkpoints
from ..problem.checkpoints import zoo
from ..problem.checkpoints.cards import read_card
from ..problem.classifier import Classifier
from ..problem.shapes import Inputs

GUIDES = 2  # networks
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
