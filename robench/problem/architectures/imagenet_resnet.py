"""Residual networks for ImageNet, He et al. 2016, https://arxiv.org/abs/1512.03385, with torchvision's keys.

Also with wider blocks, Zagoruyko & Komodakis 2016 (https://arxiv.org/abs/1605.07146), and with grouped convolutions,
Xie et al. 2017 (https://arxiv.org/abs/1611.05431).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import NEVER, Architecture, Family, Shapes, side
from .resnet import BOTTLENECK, DEPTHS, STRIDES, WIDTH, BasicBlock, Block, Bottleneck, block_of, depth_of, stage


@dataclass(frozen=True)
class Variant:
    """What a name states about a network, besides its depth."""

    groups: int = 1  # of the 3x3 convolutions in bottlenecks
    per_group: int = WIDTH  # maps of each group in the first stage
    small_stem: bool = False  # a 3x3 convolution of stride 1 at the beginning, for small images, not 7x7 of stride 2
    pool: bool = True  # the maximum over 3x3 pixels after it, with stride 2
    first_strides: bool = False  # as in the paper: strides in the first convolution of a bottleneck, not in the second


class ImageNetResNet(nn.Module):
    """A 7x7 convolution, max-pooling, four stages, the average over the image, a dense layer (table 1 of the paper).

    The weights do not depend on the image size.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, depth: int, variant: Variant):
        super().__init__()
        self.conv1 = (
            nn.Conv2d(shape[0], WIDTH, 3, padding=1, bias=False)
            if variant.small_stem
            else nn.Conv2d(shape[0], WIDTH, 7, 2, padding=3, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.pool = variant.pool

        def make(incoming: int, maps: int, stride: int) -> Block:
            if depth < BOTTLENECK:
                return BasicBlock(incoming, maps, stride, shortcut="downsample")
            inner = maps * variant.groups * variant.per_group // WIDTH
            return Bottleneck(
                incoming, maps, stride, shortcut="downsample",
                inner=inner, groups=variant.groups, first_strides=variant.first_strides,
            )  # fmt: skip

        incoming, expansion = WIDTH, block_of(depth).expansion
        for place, (blocks, stride) in enumerate(zip(DEPTHS[depth], STRIDES, strict=True)):
            maps = WIDTH * 2**place
            self.add_module(f"layer{place + 1}", stage(make, expansion, blocks, incoming, maps, stride))
            incoming = expansion * maps
        self.fc = nn.Linear(incoming, classes)

    def forward(self, x: Inputs) -> Logits:
        maps = F.relu(self.bn1(self.conv1(x)))
        if self.pool:
            maps = F.max_pool2d(maps, 3, 2, padding=1)
        for number in range(1, 5):
            maps = self.get_submodule(f"layer{number}")(maps)
        logits: Tensor = self.fc(maps.mean(dim=(2, 3)))
        return logits


def _member(name: re.Match[str]) -> Architecture | None:
    depth = int(name["depth"])
    variant = Variant(
        groups=int(name["groups"] or 1),
        per_group=int(name["per"] or WIDTH),
        small_stem=name["stem"] is not None,
        pool=name["stem"] != "-stem3",
        first_strides=name["strides"] is not None,
    )
    if depth not in DEPTHS or 0 in (variant.groups, variant.per_group):
        return None
    if depth < BOTTLENECK and (name["groups"] or name["strides"]):
        return None
    about = f"residual network of {depth} layers with torchvision's keys, He et al. 2016 (arXiv:1512.03385)"
    if name["groups"]:
        groups = f"{variant.groups} groups" if variant.groups > 1 else "one group"
        about += f", 3x3 convolutions in {groups} of {variant.per_group} maps"
    if variant.small_stem:
        about += f", for small images: a 3x3 convolution first, {'then' if variant.pool else 'no'} max-pooling"
    if variant.first_strides:
        about += ", strides in the first convolution of a block, as in the paper"
    # Nothing in the shapes shows whether the small stem is followed by max-pooling, and public code does both.
    assumed_from = NEVER if variant.small_stem else 1
    make = partial(ImageNetResNet, depth=depth, variant=variant)
    return Architecture(
        name[0], about, make, "conv1.weight", "fc.weight", 1, assumed_from=assumed_from, by_shapes=False
    )


def _names(shapes: Shapes) -> Iterator[str]:
    depth = depth_of(shapes, "conv3")
    if depth is None or "layer2.0.downsample.0.weight" not in shapes:
        return
    inner, per = side(shapes, "layer1.0.conv2.weight"), side(shapes, "layer1.0.conv2.weight", 1)
    usual = depth < BOTTLENECK or (inner, per) == (WIDTH, WIDTH)
    if not usual and (not per or inner % per):
        return
    stem = side(shapes, "conv1.weight", 2)
    base = f"resnet{depth}" + ("" if usual else f"-{inner // per}x{per}d") + "-imagenet"
    for stem_name in ("-stem3", "-stem3-pool") if stem == 3 else ("",):
        yield base + stem_name
        if depth >= BOTTLENECK:
            yield base + stem_name + "-v1"


FAMILY = Family(
    pattern=(
        r"resnet(?P<depth>\d{2,3})(-(?P<groups>\d{1,3})x(?P<per>\d{1,4})d)?-imagenet"
        r"(?P<stem>-stem3|-stem3-pool)?(?P<strides>-v1)?"
    ),
    listed=(
        *(f"resnet{depth}-imagenet" for depth in DEPTHS),
        "resnet50-1x128d-imagenet",
        "resnet50-32x4d-imagenet",
        "resnet50-imagenet-v1",
        "resnet18-imagenet-stem3",
        "resnet18-imagenet-stem3-pool",
    ),
    anchor="layer1.0.conv1.weight",
    member=_member,
    names=_names,
    others="resnetD-GxNd-imagenet for G groups of N maps, then -stem3 or -stem3-pool, and -v1",
)
