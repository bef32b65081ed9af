"""An image on which the model raises fails alone: which one it is, where a whole batch has failed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import described
from ...problem.classifier import Classifier, arithmetic
from ...problem.losses import misclassified
from ...problem.memory import out_of_memory
from ...problem.shapes import Inputs, Labels
from ..attack import Model
from .compaction import MIN

BATCH = 16  # rows, always filled up: an image meets the same arithmetic whoever its neighbours are


def error_at(model: Model, images: Inputs, *, gradients: bool) -> str:
    """What the model raises on a batch of these images alone; empty where it answers."""
    x = images.repeat(-(-MIN // len(images)), 1, 1, 1)
    try:
        with torch.set_grad_enabled(gradients):
            leaf = x.detach().requires_grad_(gradients)
            logits = model(leaf)
            if gradients:
                torch.autograd.grad(logits.sum(), leaf)
    except Exception as error:  # whatever the model's own code raises
        if out_of_memory(error):
            raise
        return described(error)
    return ""


def fooling(classifier: Classifier, images: Inputs, y: Labels) -> tuple[list[bool], dict[int, str]]:
    """Which images fool the model in float32, and by row what it raises on others. NaN is no answer."""
    fools, errors = [], dict[int, str]()
    for first in range(0, len(images), BATCH):
        rows = range(first, min(first + BATCH, len(images)))
        try:
            fools += _fooling(classifier, images, y, rows)
        except Exception as error:
            if out_of_memory(error):
                raise
            for row in rows:
                if text := error_at(classifier, images[row : row + 1], gradients=False):
                    errors[row] = text
                fools += [False] if text else _fooling(classifier, images, y, [row])
    return fools, errors


def _fooling(classifier: Classifier, images: Tensor, y: Tensor, rows: Sequence[int]) -> list[bool]:
    at = torch.tensor([*rows, *[rows[0]] * (BATCH - len(rows))], device=images.device)
    with torch.no_grad(), arithmetic(images.device):
        logits = classifier(images[at])
    fooled: list[bool] = misclassified(logits, y[at]).tolist()
    return fooled[: len(rows)]
