"""VGG networks, Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556.

The keys are those of kuangliu's pytorch-cifar for small images, and of torchvision for ImageNet.
"""

import re
from collections.abc import Iterator
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import Architecture, Family, Shapes

MAPS = 64, 128, 256, 512, 512
"""The maps of the convolutions in each stage."""
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each stage, by the number of layers with weights: A, B, D and E of table 1."""
DENSE = 4096  # features of the dense layers
POOLED = 7  # height and width of the maps that they read
SHRINKING = 32  # pixels of the image for each pixel of the last maps


class VGG(nn.Module):
    """Five stages of 3x3 convolutions with ReLU and max-pooling, and one dense layer, as is usual for small images."""

    def __init__(self, shape: tuple[int, ...], classes: int, *, depth: int, norms: bool):
        super().__init__()
        channels, height, width = shape
        self.features = _stages(channels, depth, norms)
        self.classifier = nn.Linear(MAPS[-1] * (height // SHRINKING) * (width // SHRINKING), classes)

    def forward(self, x: Inputs) -> Logits:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class ImageNetVGG(nn.Module):
    """Five stages of 3x3 convolutions with ReLU and max-pooling, and three dense layers, as in the paper.

    Images of other sizes than 224x224 are averaged to maps of 7x7 before the dense layers.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, depth: int, norms: bool):
        super().__init__()
        self.features = _stages(shape[0], depth, norms)
        self.classifier = nn.Sequential(
            nn.Linear(MAPS[-1] * POOLED**2, DENSE), nn.ReLU(), nn.Dropout(),
            nn.Linear(DENSE, DENSE), nn.ReLU(), nn.Dropout(),
            nn.Linear(DENSE, classes),
        )  # fmt: skip

    def forward(self, x: Inputs) -> Logits:
        maps = F.adaptive_avg_pool2d(self.features(x), POOLED)
        logits: Tensor = self.classifier(maps.flatten(1))
        return logits


def _stages(channels: int, depth: int, norms: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for convolutions, maps in zip(DEPTHS[depth], MAPS, strict=True):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, maps, 3, padding=1))
            layers += [nn.BatchNorm2d(maps)] if norms else []
            layers.append(nn.ReLU())
            channels = maps
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _member(name: re.Match[str]) -> Architecture | None:
    depth, norms, imagenet = int(name["depth"]), name["norms"] is not None, name["imagenet"] is not None
    if depth not in DEPTHS:
        return None
    about = f"VGG of {depth} layers {'with' if norms else 'without'} batch norm, "
    about += "with torchvision's keys" if imagenet else "for small images, with one dense layer"
    about += ", Simonyan & Zisserman 2015 (arXiv:1409.1556)"
    make = partial(ImageNetVGG if imagenet else VGG, depth=depth, norms=norms)
    last = "classifier.6.weight" if imagenet else "classifier.weight"
    return Architecture(name[0], about, make, "features.0.weight", last, SHRINKING, by_shapes=False)


def _names(shapes: Shapes) -> Iterator[str]:
    norms = "features.1.running.mean" in shapes
    convolutions = sum(len(shape) == 4 and key.startswith("features.") for key, shape in shapes.items())
    depth = next((depth for depth, stages in DEPTHS.items() if sum(stages) == convolutions), None)
    if depth is not None:
        yield from (f"vgg{depth}{'-bn' if norms else ''}{kind}" for kind in ("", "-imagenet"))


FAMILY = Family(
    pattern=r"vgg(?P<depth>\d\d)(?P<norms>-bn)?(?P<imagenet>-imagenet)?",
    listed=tuple(f"vgg{depth}{norms}{kind}" for kind in ("", "-imagenet") for norms in ("", "-bn") for depth in DEPTHS),
    anchor="features.0.weight",
    member=_member,
    names=_names,
)
