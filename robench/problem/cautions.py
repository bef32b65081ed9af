"""Cautions for the reader of a number: outputs that are not logits, unbalanced examples, unbounded radii.

All of them use forward passes that are made anyway. Each caution is one sentence without its full stop.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .shapes import Labels, Logits
from .split import Split
from .subsets import held_out
from .threats import RT, AffineBalls, AffineRT, Ball, Patch, ThreatModel

SUM_NOISE = 1e-3  # relative: how far sums of probabilities stray in half precision
SHOWN = 10  # names of classes in a note
LOGARITHMS = "the outputs are log-probabilities; attacks use them as logits"
IMPROBABLE = 1e-3  # random examples show so few classes at most this often


def of_outputs(logits: Logits) -> str:
    """The caution for outputs on which gradient attacks may fail: labels, and probabilities in any unit.

    `logits` are the model's outputs for a few images.
    """
    values = logits.double()
    if not values.isfinite().all() or len(values) < 2:
        return ""
    low, high, sums = values.amin(), values.amax(), values.sum(dim=1)
    if low < high and bool(((values == low) | (values == high)).all()) and values.shape[1] > 2:
        return (
            "the outputs take only two values: they are labels or saturated probabilities, whose gradients mislead, so"
            " without --masking on, or attacks that read labels, such as --attack hop-skip-jump, the number may be far"
            " too high; better return the logits"
        )
    if low >= 0 and sums.mean() > 0 and bool(((sums - sums.mean()).abs() <= SUM_NOISE * sums.mean()).all()):
        unit = "" if abs(sums.mean().item() - 1) <= SUM_NOISE else f", in units of 1/{sums.mean().item():.4g}"
        return (
            f"the outputs are probabilities, not logits{unit}: where they saturate, gradients vanish and attacks fail,"
            " so without --masking on the number may be far too high; better leave the softmax out of the model"
        )
    if low >= 0 and high <= 1 and low < high:
        return (
            "all outputs lie between 0 and 1, like those of a sigmoid: where they saturate, gradients vanish and"
            " attacks fail, so without --masking on the number may be far too high; better leave the sigmoid out"
        )
    return ""


def of_logarithms(logits: Logits) -> str:
    """The remark that outputs are log-probabilities, which does no harm; `logits` are those of a few images."""
    sums = logits.double().logsumexp(dim=1)
    return LOGARITHMS if len(sums) > 1 and bool((sums.abs() <= SUM_NOISE).all()) else ""


def of_classes(y: Labels, classes: int) -> str:
    """The caution for examples with fewer classes than a random sample has: in class order, or of a few classes."""
    shown, n = int((torch.bincount(y) > 0).sum()), len(y)
    if shown >= classes or _probability_of_so_few(n, classes, shown) > IMPROBABLE:
        return ""
    order = ": they are in class order" if n > 1 and bool((y.diff() >= 0).all()) and shown > 1 else ""
    return (
        f"the {n} examples show {shown} of {classes} classes{order}; the number says nothing about the other"
        f" {'class' if classes - shown == 1 else 'classes'}: mix the classes with --shuffled, or take others with"
        " --examples A:B"
    )


def of_accuracy(correct: int, y: Labels, classes: int) -> str:
    """The caution for a clean accuracy no better than always answering the most common label."""
    label, share = commonest(y)
    if classes < 2 or correct > share * len(y) or share <= 1 / classes:
        return ""
    return (
        f"clean accuracy {correct / len(y):.1%} is no better than always answering the most common label, class"
        f" {label}, which is correct on {share:.1%} of these examples"
    )


def commonest(y: Labels) -> tuple[int, float]:
    """The most common label, and its share of the examples."""
    counts = torch.bincount(y)
    return int(counts.argmax()), counts.amax().item() / len(y)


def of_threat(threat: ThreatModel, shape: tuple[int, ...]) -> str:
    """The caution for a perturbation set so large that no model can be robust in it."""
    if boundless(threat, shape):
        units = " (radii are for pixels from 0 to 1: 8/255, not 8)" if isinstance(threat, Ball) else ""
        return f"under {threat} any image may become any other, so no model can be robust{units}"
    if isinstance(threat, Ball) and _reaches(threat, 0.5, shape):
        return f"under {threat} every image may become the same grey one, so a model can be robust on one class at most"
    return ""


def of_parts(threats: Sequence[ThreatModel]) -> str:
    """The caution for mixtures whose parts are not attacked by themselves: attacks on these may find more."""
    cautions = []
    for threat in threats:
        parts = _parts(threat)
        missing = [part for part in parts if part not in threats]
        if missing:
            cautions.append(
                f"{threat} contains {' and '.join(map(str, parts))}, and what attacks on these find counts under it:"
                f" add {' '.join(f'--threat {part}' for part in missing)}, or its number may be too high"
            )
    return "; ".join(cautions)


def _parts(threat: ThreatModel) -> tuple[ThreatModel, ...]:
    """The threats that a mixture combines; none for any other threat."""
    if isinstance(threat, AffineRT):
        return threat.ball, threat.rt
    return threat.parts if isinstance(threat, AffineBalls) else ()


def boundless(threat: ThreatModel, shape: tuple[int, ...]) -> bool:
    """Whether the threat can remove all content of an image: turn black into white, or move everything out of view."""
    if isinstance(threat, RT):
        return float(threat.pixels) >= min(shape[1:])
    if isinstance(threat, Patch):
        return threat.side >= max(shape[1:])
    return isinstance(threat, Ball) and _reaches(threat, 1.0, shape)


class Trained(NamedTuple):
    """What a model's card says about the images of its training."""

    data: str = ""  # the data set, and the part if it is not `train`; empty without a card
    without: int = 0  # how many of the images were held out, also from the training of a model that it started from
    sha256: str = ""  # of all images of the data set's training part, those held out included


def of_training(split: Split, trained: Trained) -> str:
    """The caution for training images."""
    name, _, part = split.name.partition(":")
    data, _, excluded = trained.data.rpartition(":")
    trained_name, _, trained_part = trained.data.partition(":")
    undivided = excluded == "held-out" and Path(data).name == name
    if (undivided and part == "rest") or (trained_name == name and (trained_part or "train") == part):
        seen = len(split) - _held_out_in(split, trained)
        if not seen:
            return "according to its card, the model was trained without these images"
        if seen < len(split):
            return f"according to its card, the model was trained on {seen} of these {len(split)} images"
    if undivided and part != "held-out":
        return f"according to its card, the model was trained on these images, except for {name}:held-out"
    if part == "rest":
        return f"these are training images: measure a model that was trained on them on {name}:held-out"
    if trained_name == name and (trained_part or "train") == part and part in ("train", "extra", "test"):
        advice = ", so the number says nothing about others" if part == "test" else f"; measure it on {name}:test"
        return f"according to its card, the model was trained on these images{advice}"
    if part not in ("train", "extra"):
        return ""
    return f"these are training images; a model that was trained on {name} does better on them than on {name}:test"


def _held_out_in(split: Split, trained: Trained) -> int:
    """How many of the images the training held out: none where its training set was another one."""
    whole = split.uncut
    if not 0 < trained.without < len(whole) or whole.sha256 != trained.sha256:
        return 0
    return len({*split.numbers} & {whole.numbers[row] for row in held_out(len(whole), trained.without)})


def of_class_names(split: Split, outputs: int, *, mapped: bool) -> str:
    """The label of each named class, and a caution if labels are mere list positions but the model has more outputs."""
    if not split.class_names:
        return ""
    pairs = [f"{label} {name}" for name, label in split.class_names.items()]
    listed = ", ".join(pairs if len(pairs) <= SHOWN else [*pairs[: SHOWN - 1], "...", pairs[-1]])
    text = f"classes of {split.name}: {listed}"
    if mapped or outputs <= len(split.class_names):
        return text
    return (
        f"{text}; these are positions in the sorted list of names, and the model has {outputs} outputs: unless its"
        f" first {len(split.class_names)} are these classes, give a label map with --labels"
    )


def _reaches(threat: Ball, change: float, shape: tuple[int, ...]) -> bool:
    """Whether every pixel may change by `change` at once."""
    return float(threat.size(torch.full((1, *shape), change))) <= threat.r


def _probability_of_so_few(n: int, classes: int, shown: int) -> float:
    """The probability that n examples with uniformly random labels show at most `shown` classes."""
    seen = np.zeros(classes + 1)
    seen[0] = 1.0
    repeats = np.arange(classes + 1) / classes  # the probability that the next label is not new, by labels seen
    for _ in range(n):
        seen[1:] = seen[1:] * repeats[1:] + seen[:-1] * (1 - repeats[:-1])
        seen[0] = 0.0
    return float(seen[: shown + 1].sum())
