"""Errors stay local: an error of an attack ends its job, and an image on which the model raises ends its search."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ...errors import UserError, described
from ...problem.classifier import Classifier, arithmetic
from ...problem.losses import misclassified
from ...problem.memory import out_of_memory
from ...problem.shapes import Inputs, Labels
from ..attack import Model, NoGradientsError
from ..attacks import without_gradients
from .compaction import MIN_ROWS
from .job import Job

BATCH = 16  # rows, always padded: an image's result must not depend on the other images in its batch


@contextmanager
def errors_end(*jobs: Job, capturing: bool = False) -> Iterator[None]:
    """Note an error of the attack or the model in the jobs that it concerns, and let other jobs go on.

    User errors and memory shortage are raised. So is every error while a CUDA graph is captured.
    """
    try:
        yield
    except UserError:
        raise
    except NoGradientsError as error:
        if capturing:
            raise
        for job in jobs:
            job.error = f"{error}; {_readers(job, labels=error.labels)}"
    except Exception as error:
        if capturing or out_of_memory(error):
            raise
        for job in jobs:
            job.error = described(error)


def _readers(job: Job, *, labels: bool) -> str:
    """A clause that names the attacks of robench under the threat of a job that read no gradients."""
    names = without_gradients(job.threat.name, labels=labels)
    if not names:
        return f"no attack under {job.threat.name} reads none"
    return f"{' and '.join(names)} {'reads' if len(names) == 1 else 'read'} none"


def error_at(model: Model, images: Inputs, *, gradients: bool) -> str:
    """What the model raises on a batch of these images alone; empty if it answers."""
    x = images.repeat(-(-MIN_ROWS // len(images)), 1, 1, 1)
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
    """Which images fool the model in float32, and what it raises on others, by row. NaN logits do not count."""
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
