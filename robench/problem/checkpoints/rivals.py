"""Decides by clean images which of several architectures with equal keys and shapes a file holds.

Weights do not show strides, pooling or activations; a network with others than it was trained with is often wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..architectures.normalise import normalised
from ..classifier import arithmetic
from .comparison import Answers
from .inference import Trial, logits, usual_normalisations
from .waiting import Wait

STAGES = (32, 128, 500)
"""Images on which the rivals are compared, until one of them is clearly better than all others."""


@dataclass(frozen=True)
class Comparison:
    """How often each rival is correct, with the normalisation that suits it best."""

    best: int  # the place of the rival that is correct most often
    clear: bool  # whether it is a good classifier, and better than all others beyond doubt
    accuracies: tuple[float, ...]
    images: int


def compared(networks: Sequence[nn.Module], trial: Trial) -> Comparison:
    """The rivals on the trial's clean images: on more of them as long as none is clearly better."""
    images = trial.images
    texts = [trial.normalisation] if trial.normalisation else usual_normalisations(images.name, images.shape)
    left = [list(texts) for _ in networks]  # the normalisations to try with each
    with torch.no_grad(), arithmetic(trial.device):
        for stage in STAGES:
            number = min(stage, len(images))
            wait = Wait(
                f"comparing {len(networks)} architectures on {number} clean images", number * sum(map(len, left))
            )
            answers = [_best(*each, number, trial, wait) for each in zip(networks, left, strict=True)]
            left = [[text] for text, _ in answers]
            found = [given for _, given in answers]
            best = min(range(len(found)), key=lambda place: found[place].rank)
            others = [other for place, other in enumerate(found) if place != best]
            clear = all(map(found[best].clearly_better, others)) and found[best].far_above_guessing(images.y[:number])
            if clear or number == len(images):
                break
    return Comparison(best, clear, tuple(given.accuracy for given in found), number)


def _best(network: nn.Module, texts: Sequence[str], number: int, trial: Trial, wait: Wait) -> tuple[str, Answers]:
    """The normalisation with which the network is correct most often, and its answers."""
    x, y = trial.images.x[:number], trial.images.y[:number]

    def answers(text: str) -> Answers:
        module = normalised(network, text, x.shape[1]).eval().to(trial.device)
        return Answers.of(logits(module, x, trial.device, wait), y)

    return min(((text, answers(text)) for text in texts), key=lambda one: one[1].rank)
