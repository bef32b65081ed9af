"""Whether an optimisation leaves a model's answers as they are: tried on two images before it is used.

A model that works in PyTorch is searched as it is. What raises, or changes logits or gradients beyond float noise, is
dropped, and the note says so.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from ..errors import described
from ..problem.classifier import Classifier, arithmetic
from ..problem.memory import out_of_memory
from ..problem.randomness import seeded
from ..problem.shapes import Inputs
from .attack import Model
from .awake import LEAST

IMAGES = 2
LOGIT_NOISE = 1e-4  # of the spread of the logits: sums in another order differ by a hundredth of that
GRADIENT_NOISE = 0.1  # of its length: one rectifier that switches moves a small network's gradient by a few percent
ROUNDING = 1e-5  # of the largest logit: float32 resolves no less where all logits share a large offset


@dataclass(frozen=True)
class Answers:
    """Logits, and the gradient of a fixed weighted sum of them; or what the model raised instead."""

    logits: Tensor | None
    gradient: Tensor | None
    error: str = ""


def answers(model: Model, x: Inputs, device: torch.device) -> Answers:
    """What a model answers about a batch, from one seed."""
    with arithmetic(device), seeded(0, device):
        try:
            with torch.no_grad():
                logits = model(x).float()
        except Exception as error:  # whatever the model's own code raises
            if out_of_memory(error):
                raise
            return Answers(None, None, described(error))
        try:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                total = (model(leaf).float() * torch.arange(1.0, logits.shape[1] + 1, device=device)).sum()
                (gradient,) = torch.autograd.grad(total, leaf)
        except Exception as error:
            if out_of_memory(error):
                raise
            return Answers(logits, None, described(error))
    return Answers(logits, gradient)


def objection(plain: Answers, optimised: Answers) -> str:
    """Why an optimisation is not used: a clause after "it"; empty where it changes nothing beyond float noise.

    What fails without it cannot be held against it.
    """
    if plain.logits is None:
        return ""
    if optimised.logits is None or (optimised.gradient is None and plain.gradient is not None):
        return f"makes the model raise {optimised.error.rstrip('.')}"
    apart = _apart(plain.logits, optimised.logits)
    spread = (plain.logits.amax(dim=1) - plain.logits.amin(dim=1)).amax()
    noise = torch.maximum(LOGIT_NOISE * spread, ROUNDING * plain.logits.abs().amax())
    if not apart <= noise:  # NaN too
        return f"changes the logits by up to {apart.item():.3g}"
    if plain.gradient is None or optimised.gradient is None:
        return ""
    length = plain.gradient.flatten(1).norm(dim=1).amax()
    moved = (plain.gradient - optimised.gradient).flatten(1).norm(dim=1).amax()
    if plain.gradient.isfinite().all() and not moved <= GRADIENT_NOISE * length:
        return "changes the gradients"
    return ""


def use_channels_last(classifier: Classifier, x: Inputs) -> str:
    """Lay the weights of convolutions out channels last, half as fast again on a CPU. Returns why not, else nothing.

    `x` are images to try it on.
    """
    if not any(isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) for layer in classifier.module.modules()):
        return ""
    images = _images(classifier, x, IMAGES)
    plain = answers(classifier, images, classifier.device)
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    why = objection(plain, answers(classifier, images, classifier.device))
    if why:
        convert_conv2d_weight_memory_format(classifier.module, torch.contiguous_format)
    return why


def objection_to_smaller_batches(classifier: Classifier, x: Inputs) -> str:
    """Why every query must be a whole batch, else nothing: the answers about some rows depend on the others."""
    few = _images(classifier, x, LEAST)
    many = torch.cat([few, torch.zeros_like(few)])  # idle rows may hold anything

    def first(model: Callable[[Inputs], Tensor]) -> Model:
        return lambda rows: model(torch.cat([rows, many[LEAST:]]))[:LEAST]

    return objection(answers(first(classifier), few, few.device), answers(classifier, few, few.device))


def _images(classifier: Classifier, x: Inputs, rows: int) -> Tensor:
    """So many rows of the first images, in turn."""
    return x[torch.arange(rows) % min(IMAGES, len(x))].to(classifier.device)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """The largest difference; equal infinities and NaN in the same place are none."""
    same = (one == other) | (one.isnan() & other.isnan())
    return torch.where(same, 0.0, (one - other).abs()).amax()
