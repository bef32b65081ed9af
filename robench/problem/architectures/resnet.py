"""Residual networks, He et al. 2016, https://arxiv.org/abs/1512.03385: the blocks, and the networks for small images.

The keys are those of kuangliu's pytorch-cifar, which MadryLab's robustness library uses too.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import Architecture, Family, Shapes, counted_layers, side

Incoming = Float[Tensor, "B C H W"]
Outgoing = Float[Tensor, "B C_out H_out W_out"]

WIDTH = 64  # maps of the first stage
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks in each stage, by the number of layers: table 1 of the paper."""
BOTTLENECK = 50
"""The depth from which blocks are bottlenecks."""
STRIDES = 1, 2, 2, 2
"""The strides of the stages."""


class Shortcut(nn.Module):
    """The shortcut of a block: the identity, or where the maps change a 1x1 convolution with a norm.

    `called` is its name among the keys: public code differs in it.
    """

    def __init__(self, called: str, incoming: int, outgoing: int, stride: int):
        super().__init__()
        self.called = called
        if stride != 1 or incoming != outgoing:
            convolution = nn.Conv2d(incoming, outgoing, 1, stride, bias=False)
            self.add_module(called, nn.Sequential(convolution, nn.BatchNorm2d(outgoing)))

    def carried(self, x: Incoming) -> Outgoing:
        """What the shortcut makes of the maps."""
        return self.get_submodule(self.called)(x) if self.called in self._modules else x


class BasicBlock(Shortcut):
    """Two 3x3 convolutions, each with a norm; the shortcut is added before the last ReLU (figure 2)."""

    expansion = 1  # outgoing maps for each inner map

    def __init__(self, incoming: int, maps: int, stride: int, *, shortcut: str = "shortcut"):
        super().__init__(shortcut, incoming, maps, stride)
        self.conv1 = nn.Conv2d(incoming, maps, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(maps)

    def forward(self, x: Incoming) -> Outgoing:
        maps = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(maps + self.carried(x))


class Bottleneck(Shortcut):
    """1x1, 3x3 and 1x1 convolutions, each with a norm; the last has four times as many maps (figure 5).

    The paper has the stride in the first convolution; public code has it in the second. `inner` and `groups` are the
    maps and groups of the 3x3 convolution, as in wide ResNets and in ResNeXt, Xie et al. 2017
    (https://arxiv.org/abs/1611.05431).
    """

    expansion = 4

    def __init__(
        self,
        incoming: int,
        maps: int,
        stride: int,
        *,
        shortcut: str = "shortcut",
        inner: int | None = None,
        groups: int = 1,
        first_strides: bool = False,
    ):
        inner, outgoing = inner or maps, self.expansion * maps
        super().__init__(shortcut, incoming, outgoing, stride)
        strides = (stride, 1) if first_strides else (1, stride)
        self.conv1 = nn.Conv2d(incoming, inner, 1, strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, strides[1], padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outgoing, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outgoing)

    def forward(self, x: Incoming) -> Outgoing:
        maps = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(maps)) + self.carried(x))


Block = BasicBlock | Bottleneck
MakeBlock = Callable[[int, int, int], Block]
"""A function that makes a block from incoming maps, inner maps and stride."""


def stage(make: MakeBlock, expansion: int, blocks: int, incoming: int, maps: int, stride: int) -> nn.Sequential:
    """Blocks in a row, of which the first changes the number and the size of the maps."""
    others = [make(expansion * maps, maps, 1) for _ in range(blocks - 1)]
    return nn.Sequential(make(incoming, maps, stride), *others)


def block_of(depth: int) -> type[BasicBlock] | type[Bottleneck]:
    """The kind of block of a network with this number of layers."""
    return Bottleneck if depth >= BOTTLENECK else BasicBlock


def depth_of(shapes: Shapes, last: str) -> int | None:
    """The number of layers of a network with four stages; `last` is the name of the last convolution of bottlenecks."""
    blocks = tuple(counted_layers(shapes, f"layer{number}.{{}}.conv1.weight") for number in (1, 2, 3, 4))
    deep = f"layer1.0.{last}.weight" in shapes
    return next((depth for depth, own in DEPTHS.items() if own == blocks and deep == (depth >= BOTTLENECK)), None)


class ResNet(nn.Module):
    """A 3x3 convolution, four stages of `width` to 8 `width` inner maps, the average over the image, a dense layer.

    The weights do not depend on the image size.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, depth: int, width: int = WIDTH):
        super().__init__()
        make = block_of(depth)
        incoming = width
        self.conv1 = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for place, (blocks, stride) in enumerate(zip(DEPTHS[depth], STRIDES, strict=True)):
            maps = width * 2**place
            self.add_module(f"layer{place + 1}", stage(make, make.expansion, blocks, incoming, maps, stride))
            incoming = make.expansion * maps
        self.linear = nn.Linear(incoming, classes)

    def forward(self, x: Inputs) -> Logits:
        maps = F.relu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            maps = self.get_submodule(f"layer{number}")(maps)
        logits: Tensor = self.linear(maps.mean(dim=(2, 3)))
        return logits


def _member(name: re.Match[str]) -> Architecture | None:
    depth, width = int(name["depth"]), int(name["width"] or WIDTH)
    if depth not in DEPTHS or width < 1:
        return None
    about = f"residual network of {depth} layers for small images, He et al. 2016 (arXiv:1512.03385)"
    about += f", of width {width}" if width != WIDTH else ""
    make = partial(ResNet, depth=depth, width=width)
    return Architecture(name[0], about, make, "conv1.weight", "linear.weight", smallest=1, by_shapes=False)


def _names(shapes: Shapes) -> Iterator[str]:
    depth, width = depth_of(shapes, "conv3"), side(shapes, "conv1.weight")
    if depth is not None and "layer2.0.shortcut.1.weight" in shapes:
        yield f"resnet{depth}" + (f"-w{width}" if width != WIDTH else "")


FAMILY = Family(
    pattern=r"resnet(?P<depth>\d{2,3})(-w(?P<width>\d{1,4}))?",
    listed=tuple(f"resnet{depth}" for depth in DEPTHS),
    anchor="layer1.0.conv1.weight",
    member=_member,
    names=_names,
    others="resnetD-wN for N maps in the first stage",
)
