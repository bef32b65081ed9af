"""Densely connected networks, Huang et al. 2017, https://arxiv.org/abs/1608.06993.

The keys are those of kuangliu's pytorch-cifar for small images, and of torchvision for ImageNet. In a layer the former
puts the new maps before the others, the latter behind them.
"""

import re
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import Architecture, Family, Shapes, counted_layers, side
from .resnet import Incoming, Outgoing

DEPTHS = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
"""Layers in each block, by the number of layers of the network: table 1."""
GROWTH = 32
OWN_GROWTH = {161: 48}
"""Maps that a layer adds, k in the paper: in all networks, and in those of a number of their own."""


class DenseLayer(nn.Module):
    """1x1 and 3x3 convolutions, each after a norm and ReLU; the `growth` new maps join those that came in.

    `norm` is the name of the norms among the keys. `newest_first` puts the new maps before the others.
    """

    def __init__(self, incoming: int, growth: int, *, norm: str, newest_first: bool):
        super().__init__()
        self.called, self.newest_first = norm, newest_first
        self.add_module(f"{norm}1", nn.BatchNorm2d(incoming))
        self.conv1 = nn.Conv2d(incoming, 4 * growth, 1, bias=False)
        self.add_module(f"{norm}2", nn.BatchNorm2d(4 * growth))
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Incoming) -> Outgoing:
        inner = self.conv1(F.relu(self.get_submodule(f"{self.called}1")(x)))
        new = self.conv2(F.relu(self.get_submodule(f"{self.called}2")(inner)))
        return torch.cat([new, x] if self.newest_first else [x, new], dim=1)


class Transition(nn.Module):
    """A norm, ReLU and a 1x1 convolution to half the maps, averaged over 2x2 pixels."""

    def __init__(self, incoming: int, *, norm: str):
        super().__init__()
        self.called = norm
        self.add_module(norm, nn.BatchNorm2d(incoming))
        self.conv = nn.Conv2d(incoming, incoming // 2, 1, bias=False)

    def forward(self, x: Incoming) -> Outgoing:
        return F.avg_pool2d(self.conv(F.relu(self.get_submodule(self.called)(x))), 2)


class DenseNet(nn.Module):
    """The network for small images: a 3x3 convolution, four dense blocks, the average over the image, a dense layer.

    The weights do not depend on the image size.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, depth: int, growth: int):
        super().__init__()
        maps = 2 * growth
        self.conv1 = nn.Conv2d(shape[0], maps, 3, padding=1, bias=False)
        for number, layers in enumerate(DEPTHS[depth], start=1):
            block = nn.Sequential()
            for place in range(layers):
                block.append(DenseLayer(maps + growth * place, growth, norm="bn", newest_first=True))
            self.add_module(f"dense{number}", block)
            maps += growth * layers
            if number < len(DEPTHS[depth]):
                self.add_module(f"trans{number}", Transition(maps, norm="bn"))
                maps //= 2
        self.bn = nn.BatchNorm2d(maps)
        self.linear = nn.Linear(maps, classes)

    def forward(self, x: Inputs) -> Logits:
        maps = self.conv1(x)
        for number in (1, 2, 3):
            maps = self.get_submodule(f"trans{number}")(self.get_submodule(f"dense{number}")(maps))
        maps = F.relu(self.bn(self.get_submodule("dense4")(maps)))
        logits: Tensor = self.linear(maps.mean(dim=(2, 3)))
        return logits


class ImageNetDenseNet(nn.Module):
    """A 7x7 convolution, max-pooling, four dense blocks, the average over the image, a dense layer.

    The weights do not depend on the image size.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, depth: int, growth: int):
        super().__init__()
        maps = 2 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(shape[0], maps, 7, 2, padding=3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(maps))
        self.features.add_module("relu0", nn.ReLU())
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, padding=1))
        for number, layers in enumerate(DEPTHS[depth], start=1):
            block = nn.Sequential()
            for place in range(layers):
                layer = DenseLayer(maps + growth * place, growth, norm="norm", newest_first=False)
                block.add_module(f"denselayer{place + 1}", layer)
            self.features.add_module(f"denseblock{number}", block)
            maps += growth * layers
            if number < len(DEPTHS[depth]):
                self.features.add_module(f"transition{number}", Transition(maps, norm="norm"))
                maps //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(maps))
        self.classifier = nn.Linear(maps, classes)

    def forward(self, x: Inputs) -> Logits:
        logits: Tensor = self.classifier(F.relu(self.features(x)).mean(dim=(2, 3)))
        return logits


def _member(name: re.Match[str], *, imagenet: bool) -> Architecture | None:
    depth = int(name["depth"])
    growth = int(name["growth"] or OWN_GROWTH.get(depth, GROWTH))
    if depth not in DEPTHS or growth < 1:
        return None
    about = f"densely connected network of {depth} layers, k={growth}, Huang et al. 2017 (arXiv:1608.06993), "
    about += "with torchvision's keys" if imagenet else "for small images"
    make = partial(ImageNetDenseNet if imagenet else DenseNet, depth=depth, growth=growth)
    if imagenet:
        return Architecture(
            name[0], about, make, "features.conv0.weight", "classifier.weight", smallest=32, by_shapes=False
        )
    return Architecture(name[0], about, make, "conv1.weight", "linear.weight", by_shapes=False)


def _names(shapes: Shapes, *, imagenet: bool) -> Iterator[str]:
    key, start = (
        ("features.denseblock{}.denselayer{{}}.conv2.weight", 1) if imagenet else ("dense{}.{{}}.conv2.weight", 0)
    )
    blocks = tuple(counted_layers(shapes, key.format(number), start) for number in (1, 2, 3, 4))
    growth = side(shapes, key.format(1).format(start))
    for depth, own in DEPTHS.items():
        if own == blocks:
            usual = growth == OWN_GROWTH.get(depth, GROWTH)
            yield f"densenet{depth}{'' if usual else f'-k{growth}'}{'-imagenet' if imagenet else ''}"


PATTERN = r"densenet(?P<depth>\d{3})(-k(?P<growth>\d{1,3}))?"
FAMILIES = (
    Family(
        pattern=PATTERN,
        listed=(*(f"densenet{depth}" for depth in DEPTHS), "densenet121-k12"),
        anchor="dense1.0.conv1.weight",
        member=partial(_member, imagenet=False),
        names=partial(_names, imagenet=False),
        others="densenetD-kN for N maps that a layer adds",
    ),
    Family(
        pattern=PATTERN + "-imagenet",
        listed=tuple(f"densenet{depth}-imagenet" for depth in DEPTHS),
        anchor="features.denseblock1.denselayer1.conv1.weight",
        member=partial(_member, imagenet=True),
        names=partial(_names, imagenet=True),
        others="densenetD-kN-imagenet for N maps that a layer adds",
    ),
)
