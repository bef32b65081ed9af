"""MobileNetV2, Sandler et al. 2018, https://arxiv.org/abs/1801.04381.

The keys are those of kuangliu's pytorch-cifar for small images, and of torchvision for ImageNet.
"""

import re
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import Architecture, Family
from .resnet import Incoming, Outgoing, Shortcut

PLAN = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Expansion, outgoing maps and blocks of each stage: t, c and n of table 2."""
STRIDES = 1, 2, 2, 2, 1, 2, 1
"""The strides of the stages: s of table 2."""
SMALL_STRIDES = 1, 1, 2, 2, 1, 2, 1
"""The strides of the stages for small images."""
FIRST, LAST = 32, 1280  # maps of the first and of the last convolution
BECOMES_ONE_PIXEL = 32  # the side of images that the strides of the paper shrink to one pixel


class ShortcutBlock(Shortcut):
    """1x1, depthwise 3x3 and 1x1 convolutions, each with a norm, and ReLU after the first two.

    Without a stride the input is added, through a 1x1 convolution where the number of maps changes, which the paper
    does not have.
    """

    def __init__(self, incoming: int, outgoing: int, expansion: int, stride: int):
        super().__init__("shortcut", incoming, outgoing if stride == 1 else incoming, 1)
        self.stride = stride
        inner = expansion * incoming
        self.conv1 = nn.Conv2d(incoming, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outgoing, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outgoing)

    def forward(self, x: Incoming) -> Outgoing:
        inner = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        maps: Tensor = self.bn3(self.conv3(inner))
        return maps + self.carried(x) if self.stride == 1 else maps


class MobileNetV2(nn.Module):
    """The network for small images: a 3x3 convolution, 17 blocks, a 1x1 convolution, the average, a dense layer.

    The weights do not depend on the image size.
    """

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(shape[0], FIRST, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(FIRST)
        self.layers = nn.Sequential()
        incoming = FIRST
        for (expansion, maps, blocks), stride in zip(PLAN, SMALL_STRIDES, strict=True):
            for place in range(blocks):
                self.layers.append(ShortcutBlock(incoming, maps, expansion, 1 if place else stride))
                incoming = maps
        self.conv2 = nn.Conv2d(incoming, LAST, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(LAST)
        self.linear = nn.Linear(LAST, classes)

    def forward(self, x: Inputs) -> Logits:
        maps = self.layers(F.relu(self.bn1(self.conv1(x))))
        maps = F.relu(self.bn2(self.conv2(maps)))
        logits: Tensor = self.linear(maps.mean(dim=(2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """The block of the paper (table 1): 1x1, depthwise 3x3 and 1x1 convolutions, ReLU6 after the first two.

    The input is added where the maps keep their number and size. With expansion 1 there is no first convolution.
    """

    def __init__(self, incoming: int, outgoing: int, expansion: int, stride: int):
        super().__init__()
        inner = expansion * incoming
        self.adds = stride == 1 and incoming == outgoing
        layers: list[nn.Module] = [_normed(incoming, inner, 1)] if expansion != 1 else []
        layers += [_normed(inner, inner, 3, stride, groups=inner), nn.Conv2d(inner, outgoing, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(outgoing))

    def forward(self, x: Incoming) -> Outgoing:
        maps: Tensor = self.conv(x)
        return x + maps if self.adds else maps


class ImageNetMobileNetV2(nn.Module):
    """A 3x3 convolution, 17 blocks, a 1x1 convolution, the average over the image, a dense layer (table 2).

    `small` leaves out the strides of the first convolution and of the second stage. The weights do not depend on the
    image size.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, small: bool):
        super().__init__()
        self.features = nn.Sequential(_normed(shape[0], FIRST, 3, 1 if small else 2))
        incoming = FIRST
        for (expansion, maps, blocks), stride in zip(PLAN, SMALL_STRIDES if small else STRIDES, strict=True):
            for place in range(blocks):
                self.features.append(InvertedResidual(incoming, maps, expansion, 1 if place else stride))
                incoming = maps
        self.features.append(_normed(incoming, LAST, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST, classes))

    def forward(self, x: Inputs) -> Logits:
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def _normed(incoming: int, outgoing: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, a norm and ReLU6."""
    convolution = nn.Conv2d(incoming, outgoing, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outgoing), nn.ReLU6())


def _member(name: re.Match[str]) -> Architecture:
    about = "MobileNetV2, Sandler et al. 2018 (arXiv:1801.04381), "
    if name[0] == "mobilenetv2":
        about += "for small images"
        return Architecture(name[0], about, MobileNetV2, "conv1.weight", "linear.weight", 1, by_shapes=False)
    small = name[0].endswith("-small")
    about += "with torchvision's keys" + (" and without the first two strides, for small images" if small else "")
    return Architecture(
        name[0],
        about,
        partial(ImageNetMobileNetV2, small=small),
        "features.0.0.weight",
        "classifier.1.weight",
        smallest=1,
        # Smaller images are often read without the first strides, and nothing in the shapes shows it.
        assumed_from=BECOMES_ONE_PIXEL + 1,
        by_shapes=False,
    )


def _family(anchor: str, *names: str) -> Family:
    return Family("|".join(names), names, anchor, _member, lambda _: names)


FAMILIES = (
    _family("layers.16.conv3.weight", "mobilenetv2"),
    _family("features.17.conv.2.weight", "mobilenetv2-imagenet", "mobilenetv2-imagenet-small"),
)
