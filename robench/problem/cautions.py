"""What a reader of a number should be cautioned about: outputs that are no logits, one-sided examples, boundless radii.

Everything here is read from passes that are made anyway. Each caution is one sentence without its full stop.
"""

from pathlib import Path

import numpy as np
import torch

from .shapes import Labels, Logits
from .split import Split
from .threats import RT, Ball, ThreatModel

SUM_NOISE = 1e-3  # relative: how far sums of probabilities stray in half precision
SHOWN = 10  # names of classes in a note
IMPROBABLE = 1e-3  # examples drawn at random show so few classes no more often than this


def of_outputs(logits: Logits) -> str:
    """Outputs that are no logits: labels, probabilities in whatever unit, or logarithms of them.

    `logits` are the model's answers about a few images.
    """
    values = logits.double()
    if not values.isfinite().all() or len(values) < 2:
        return ""
    low, high, sums = values.amin(), values.amax(), values.sum(dim=1)
    if low < high and bool(((values == low) | (values == high)).all()) and values.shape[1] > 2:
        return (
            "the outputs take two values only: they are labels, or probabilities that have saturated, and their"
            " gradients mislead, so the number may be far too high; return the logits, or use attacks that read labels"
            " alone, such as --attack hop-skip-jump"
        )
    if low >= 0 and sums.mean() > 0 and bool(((sums - sums.mean()).abs() <= SUM_NOISE * sums.mean()).all()):
        unit = "" if abs(sums.mean().item() - 1) <= SUM_NOISE else f", in units of 1/{sums.mean().item():.4g}"
        return (
            f"the outputs are probabilities, not logits{unit}: where they saturate, gradients vanish and attacks fail,"
            " so the number may be far too high; leave the softmax out of the model, or add --masking on"
        )
    if bool((values.logsumexp(dim=1).abs() <= SUM_NOISE).all()):
        return "the outputs are log-probabilities, which attacks use as they use logits"
    if low >= 0 and high <= 1 and low < high:
        return (
            "all outputs lie between 0 and 1, as probabilities of a sigmoid do: where they saturate, gradients vanish"
            " and attacks fail, so the number may be far too high; leave the sigmoid out, or add --masking on"
        )
    return ""


def of_classes(y: Labels, classes: int) -> str:
    """Examples that show fewer classes than a random draw would: images in class order, or of some classes alone."""
    shown, n = int((torch.bincount(y) > 0).sum()), len(y)
    if shown >= classes or _chance_of_so_few(n, classes, shown) > IMPROBABLE:
        return ""
    order = ": they are in class order" if n > 1 and bool((y.diff() >= 0).all()) and shown > 1 else ""
    return (
        f"the {n} examples show {shown} of {classes} classes{order}; the number says nothing about the other"
        f" {'class' if classes - shown == 1 else 'classes'}: mix the classes with --shuffled, or take others with"
        " --examples A:B"
    )


def of_accuracy(correct: int, y: Labels, classes: int) -> str:
    """A clean accuracy that always answering the commonest label would reach as well."""
    label, share = commonest(y)
    if classes < 2 or correct > share * len(y) or share <= 1 / classes:
        return ""
    return (
        f"clean accuracy {correct / len(y):.1%} is no better than always answering the commonest label, class {label},"
        f" which is right on {share:.1%} of these examples"
    )


def commonest(y: Labels) -> tuple[int, float]:
    """The label that most examples have, and its share of them."""
    counts = torch.bincount(y)
    return int(counts.argmax()), counts.amax().item() / len(y)


def of_threat(threat: ThreatModel, shape: tuple[int, ...]) -> str:
    """A set so large that no model can stand in it."""
    if boundless(threat, shape):
        units = " (radii are for pixels from 0 to 1: 8/255, not 8)" if isinstance(threat, Ball) else ""
        return f"under {threat} any image may become any other, so no model can stand{units}"
    if isinstance(threat, Ball) and _reaches(threat, 0.5, shape):
        return f"under {threat} every image may become the same grey one, so at most one class can stand"
    return ""


def boundless(threat: ThreatModel, shape: tuple[int, ...]) -> bool:
    """Whether it leaves nothing of an image of this shape: black may become white, or all be moved out of sight."""
    if isinstance(threat, RT):
        return float(threat.pixels) >= min(shape[1:])
    return isinstance(threat, Ball) and _reaches(threat, 1.0, shape)


def of_training(split: Split, trained_on: str) -> str:
    """Images of a training part. `trained_on` is the data set of the model's card, empty where there is none."""
    name, _, part = split.name.partition(":")
    data, _, kept = trained_on.rpartition(":")
    if kept == "held-out" and Path(data).name == name and part != "held-out":
        return f"the model was trained on these images, but for those of {name}:held-out, as its card says"
    if part == "rest":
        return f"these are training images: measure a model that was trained on them on {name}:held-out"
    if part != "train":
        return ""
    if trained_on and trained_on.partition(":")[0] == name:
        return f"these are the images that the model was trained on, as its card says; measure it on {name}:test"
    return f"these are training images; a model that was trained on {name} does better on them than on {name}:test"


def of_class_names(split: Split, outputs: int, *, mapped: bool) -> str:
    """Which label each named class has; and that places in a list are no outputs of a model that has more of them."""
    if not split.class_names:
        return ""
    pairs = [f"{label} {name}" for name, label in split.class_names.items()]
    listed = ", ".join(pairs if len(pairs) <= SHOWN else [*pairs[: SHOWN - 1], "...", pairs[-1]])
    text = f"classes of {split.name}: {listed}"
    if mapped or outputs <= len(split.class_names):
        return text
    return (
        f"{text}; these are places in the sorted names, and the model has {outputs} outputs: unless its first"
        f" {len(split.class_names)} are these classes, give a label map with --labels"
    )


def _reaches(threat: Ball, change: float, shape: tuple[int, ...]) -> bool:
    """Whether every pixel may change by so much at once."""
    return float(threat.size(torch.full((1, *shape), change))) <= threat.r


def _chance_of_so_few(n: int, classes: int, shown: int) -> float:
    """How probably n examples with uniformly random labels show at most so many classes."""
    seen = np.zeros(classes + 1)
    seen[0] = 1.0
    more = np.arange(classes + 1) / classes  # the chance that the next label has been seen, by how many have
    for _ in range(n):
        seen[1:] = seen[1:] * more[1:] + seen[:-1] * (1 - more[:-1])
        seen[0] = 0.0
    return float(seen[: shown + 1].sum())
