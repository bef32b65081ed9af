"""Normalisation as a layer of the model, so that attacks and radii refer to the box [0, 1].

A network that was trained on (x - mean) / std is a different function of the pixels from the bare
network; here the normalisation is part of the model and of its identity.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError, counted, unknown
from ..datasets import DATASETS
from ..shapes import Inputs, Logits

IMAGENET = "0.485,0.456,0.406/0.229,0.224,0.225"
"""The mean and standard deviation for networks trained on ImageNet, by convention."""


class Normalise(nn.Module):
    """The layer (x - mean) / std, with one number of each per channel.

    The numbers are not part of a state dict: they are on the card or in the metadata.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Inputs) -> Inputs:
        return (x - self.mean) / self.std


class Around(nn.Module):
    """A wrapper around a network that adds no weights; its state dict is the network's own, key for key.

    Load weights through this module, not through one that contains it.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Inputs) -> Logits:
        logits: Tensor = self.network(x)
        return logits

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return self.network.load_state_dict(state_dict, *args, **kwargs)


class Normalised(Around):
    """A network that gets normalised pixels."""

    def __init__(self, network: nn.Module, normalise: Normalise):
        super().__init__(network)
        self.normalise = normalise

    def forward(self, x: Inputs) -> Logits:
        return super().forward(self.normalise(x))


def canonical(text: str, channels: int) -> str:
    """The text of a normalisation with one number per channel: equal functions have equal texts.

    Reads `none`, a data set's name, `imagenet`, or `MEAN/STD` with numbers separated by commas; a single number
    applies to every channel. Raises UserError for other texts.
    """
    if text == "none":
        return text
    mean, std = _numbers(text, channels)
    if set(mean) == {0.0} and set(std) == {1.0}:
        return "none"
    return _text(mean, std)


def normalised(network: nn.Module, text: str, channels: int) -> nn.Module:
    """The network with the normalisation that `text` describes; the bare network for `none`."""
    text = canonical(text, channels)
    return network if text == "none" else Normalised(network, Normalise(*_numbers(text, channels)))


def normalised_images(x: Inputs, text: str) -> Inputs:
    """What the network gets for pixels in [0, 1]. Raises UserError as `canonical` does."""
    text = canonical(text, x.shape[1])
    return x if text == "none" else Normalise(*_numbers(text, x.shape[1]))(x)


def _numbers(text: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    known = {name: _text(data.mean, data.std) for name, data in DATASETS.items() if data.mean} | {"imagenet": IMAGENET}
    spec = known.get(text, text)
    if "/" not in spec:
        raise unknown("normalisation", text, ["none", *known, "MEAN/STD"])
    try:
        mean, std = (tuple(float(number) for number in half.split(",")) for half in spec.split("/"))
    except ValueError:
        raise UserError(
            f"the normalisation {text} cannot be read; write none, a name like cifar10, or MEAN/STD like 0.1307/0.3081"
        ) from None
    for numbers in (mean, std):
        if len(numbers) not in (1, channels):
            raise UserError(
                f"the normalisation {text} is for {counted(len(numbers), 'channel')}, but the images have {channels}; "
                f"write {'1 number' if channels == 1 else f'1 or {channels} numbers'} on each side of the slash"
            )
    if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise UserError(f"the normalisation {text} needs finite means, and standard deviations above 0")
    return _spread(mean, channels), _spread(std, channels)


def _spread(numbers: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return numbers * channels if len(numbers) == 1 else numbers


def _text(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    return "/".join(",".join(map(repr, numbers)) for numbers in (mean, std))
