"""Tries an optimisation on two images before it is used: it must not change the model's answers.

Every model that works in PyTorch can be searched. An optimisation that raises, or that changes logits or gradients
beyond float noise, is dropped with a note.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from ...errors import described
from ...problem.classifier import Classifier, arithmetic
from ...problem.randomness import seeded
from ...problem.shapes import Inputs
from ..attack import Model
from .compaction import MIN_ROWS

IMAGES = 2
LOGIT_NOISE = 1e-4  # of the spread of the logits: summing in another order changes a hundredth of that
GRADIENT_NOISE = 0.1  # of its length: one ReLU that switches changes a small network's gradient by a few percent
ROUNDING = 1e-5  # of the largest logit: the resolution of float32 if all logits share a large offset


@dataclass(frozen=True)
class Answers:
    """The logits, and the gradient of a fixed weighted sum of them; None and the error if the model raised."""

    logits: Tensor | None
    gradient: Tensor | None
    error: str = ""


def answers(model: Model, x: Inputs, device: torch.device) -> Answers:
    """The answers of a model for a batch, with a fixed seed."""
    with arithmetic(device), seeded(0, device):
        try:
            with torch.no_grad():
                logits = model(x).float()
        except Exception as error:  # whatever the model's own code raises; the engine handles memory shortage
            return Answers(None, None, described(error))
        try:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                total = (model(leaf).float() * torch.arange(1.0, logits.shape[1] + 1, device=device)).sum()
                (gradient,) = torch.autograd.grad(total, leaf)
        except Exception as error:
            return Answers(logits, None, described(error))
    return Answers(logits, gradient)


def objection(plain: Answers, optimised: Answers) -> str:
    """The reason why an optimisation is not used, as a clause after "it"; empty if it changes only float noise.

    A failure that also occurs without the optimisation is no reason.
    """
    if plain.logits is None:
        return ""
    if optimised.logits is None or (optimised.gradient is None and plain.gradient is not None):
        return f"makes the model raise {optimised.error.rstrip('.')}"
    if _beyond_noise(plain.logits, optimised.logits):
        return f"changes the logits by up to {_apart(plain.logits, optimised.logits).item():.3g}"
    if plain.gradient is None or optimised.gradient is None:
        return ""
    if plain.gradient.isfinite().all() and not _moved(plain.gradient, optimised.gradient) <= GRADIENT_NOISE:
        return "changes the gradients"
    return ""


def gradients_apart(classifier: Classifier, model: Model, x: Inputs) -> float:
    """How far the gradients of a copy are from a classifier's, in lengths of these.

    0 where these are not finite, or the copy has none; infinite where it alone has some.
    """
    plain, copied = (answers(of, x, classifier.device).gradient for of in (classifier, model))
    if copied is None:
        return 0.0
    if plain is None:
        return float("inf")
    return _moved(plain, copied) if plain.isfinite().all() else 0.0


def gradient_caution(classifier: Classifier, x: Inputs, *, at_random: bool = False) -> str:
    """A warning, in a sentence, about a model's gradients at the first images; empty if they are sound.

    If the model returns other logits while gradients are recorded, attacks search another function than the one that is
    verified; that is not compared where it answers `at_random`. Without a gradient, attacks that read it cannot run. If
    it is exactly 0, they do not move.
    """
    images = first_images(classifier, x, MIN_ROWS)
    plain = answers(classifier, images, classifier.device)
    with arithmetic(classifier.device), seeded(0, classifier.device), torch.enable_grad():
        try:
            answer = classifier(images.clone().requires_grad_())
            graph, recorded = answer.requires_grad, answer.detach().float()
        except Exception:  # the attacks will raise and report it
            return ""
    if plain.logits is not None and plain.gradient is None and not graph:
        return (
            "the model has no gradients, so attacks that read them cannot run, and examples that no other attack breaks"
            " stay open"
        )
    if not at_random and plain.logits is not None and _beyond_noise(plain.logits, recorded):
        return (
            "the model answers otherwise while gradients are recorded, so attacks search another function than the one"
            " that is verified, and the number may be far too high; make its forward pass the same in both modes"
        )
    if plain.gradient is not None and not plain.gradient.any():
        return (
            "the gradient of the outputs is exactly 0 at the first images, so attacks that read it do not move; without"
            " --masking on, or attacks that read labels, such as --attack hop-skip-jump, the number may be far too high"
        )
    return ""


def use_channels_last(classifier: Classifier, x: Inputs) -> str:
    """Store the weights of convolutions channels last, which is 1.5 times as fast on a CPU.

    Tries it on images of `x`. Returns the reason why it is not used; empty if it is.
    """
    if not any(isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) for layer in classifier.module.modules()):
        return ""
    images = first_images(classifier, x)
    plain = answers(classifier, images, classifier.device)
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    why = objection(plain, answers(classifier, images, classifier.device))
    if why:
        convert_conv2d_weight_memory_format(classifier.module, torch.contiguous_format)
    return why


def objection_to_smaller_batches(classifier: Classifier, x: Inputs) -> str:
    """The reason why queries must be whole batches: answers for some rows depend on others. Empty if they need not."""
    few = first_images(classifier, x, MIN_ROWS)
    many = torch.cat([few, torch.zeros_like(few)])  # idle slots may hold any image

    def first(model: Callable[[Inputs], Tensor]) -> Model:
        return lambda rows: model(torch.cat([rows, many[MIN_ROWS:]]))[:MIN_ROWS]

    return objection(answers(first(classifier), few, few.device), answers(classifier, few, few.device))


def _moved(one: Tensor, other: Tensor) -> float:
    """The largest distance between gradients, over the largest length; 0 if both are 0."""
    one, other = one.double(), other.double()  # squares of small numbers vanish in float32
    moved, length = (gradients.flatten(1).norm(dim=1).amax().item() for gradients in (one - other, one))
    return moved / length if length else float("inf") if moved else 0.0


def _beyond_noise(one: Tensor, other: Tensor) -> bool:
    """Whether logits differ by more than summation order explains. NaN in only one of them is a difference."""
    spread = (one.amax(dim=1) - one.amin(dim=1)).amax()
    noise = torch.maximum(LOGIT_NOISE * spread, ROUNDING * one.abs().amax())
    return not bool(_apart(one, other) <= noise)


def first_images(classifier: Classifier, x: Inputs, rows: int = IMAGES) -> Tensor:
    """A batch of this many rows that repeats the first images."""
    return x[torch.arange(rows) % min(IMAGES, len(x))].to(classifier.device)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """The largest difference. Equal infinities, and NaN in the same place, do not differ."""
    same = (one == other) | (one.isnan() & other.isnan())
    return torch.where(same, 0.0, (one - other).abs()).amax()
