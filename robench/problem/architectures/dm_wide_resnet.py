"""Wide residual networks of Gowal et al. 2020, https://arxiv.org/abs/2010.03593, and of those who build on it.

The keys are those of DeepMind's adversarial_robustness, which RobustBench uses too.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import Architecture, Family, Shapes, counted_layers, side
from .resnet import Incoming, Outgoing
from .wide_resnet import FIRST, STRIDES

Activation = Callable[[Tensor], Tensor]
BORDERS = {1: (1, 1, 1, 1), 2: (0, 1, 0, 1)}
"""Zeros at the left, right, upper and lower border before a 3x3 convolution, by its stride: as TensorFlow pads."""


class DMBlock(nn.Module):
    """Norm, activation and 3x3 convolution, twice, with a shortcut as in wide ResNets.

    With a stride, zeros are added at the right and lower border only, which fits the shortcut for even sides.
    """

    def __init__(self, incoming: int, outgoing: int, stride: int, activation: Activation):
        super().__init__()
        self.activation, self.stride = activation, stride
        self.batchnorm_0 = nn.BatchNorm2d(incoming)
        self.conv_0 = nn.Conv2d(incoming, outgoing, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outgoing)
        self.conv_1 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.shortcut = None if incoming == outgoing else nn.Conv2d(incoming, outgoing, 1, stride, bias=False)

    def forward(self, x: Incoming) -> Outgoing:
        active = self.activation(self.batchnorm_0(x))
        carried = x if self.shortcut is None else self.shortcut(active)
        inner = self.conv_0(F.pad(active, BORDERS[self.stride]))
        maps: Tensor = carried + self.conv_1(self.activation(self.batchnorm_1(inner)))
        return maps


class DMGroup(nn.Module):
    """Blocks in a row, of which the first changes the number and the size of the maps."""

    def __init__(self, blocks: int, incoming: int, outgoing: int, stride: int, activation: Activation):
        super().__init__()
        others = [DMBlock(outgoing, outgoing, 1, activation) for _ in range(blocks - 1)]
        self.block = nn.Sequential(DMBlock(incoming, outgoing, stride, activation), *others)

    def forward(self, x: Incoming) -> Outgoing:
        maps: Tensor = self.block(x)
        return maps


class DMWideResNet(nn.Module):
    """WRN-depth-factor with SiLU, which the paper calls Swish, or ReLU.

    The maps are averaged over the image before the dense layer, and the weights do not depend on the image size.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, depth: int, factor: int, activation: Activation):
        super().__init__()
        blocks = (depth - 4) // 6
        widths = FIRST, FIRST * factor, 2 * FIRST * factor, 4 * FIRST * factor
        self.activation = activation
        self.init_conv = nn.Conv2d(shape[0], FIRST, 3, padding=1, bias=False)
        groups = zip(widths[:-1], widths[1:], STRIDES, strict=True)
        self.layer = nn.Sequential(*(DMGroup(blocks, *sizes, activation) for sizes in groups))
        self.batchnorm = nn.BatchNorm2d(widths[-1])
        self.logits = nn.Linear(widths[-1], classes)

    def forward(self, x: Inputs) -> Logits:
        maps = self.activation(self.batchnorm(self.layer(self.init_conv(x))))
        logits: Tensor = self.logits(maps.mean(dim=(2, 3)))
        return logits


def _member(name: re.Match[str]) -> Architecture | None:
    depth, factor, relu = int(name["depth"]), int(name["factor"]), name["relu"] is not None
    if depth < 10 or depth % 6 != 4 or factor < 2:
        return None
    about = f"wide residual network with {'ReLU' if relu else 'SiLU'}, Gowal et al. 2020 (arXiv:2010.03593)"
    make = partial(DMWideResNet, depth=depth, factor=factor, activation=F.relu if relu else F.silu)
    return Architecture(
        name[0], about, make, "init_conv.weight", "logits.weight", smallest=4, multiple=4, by_shapes=False
    )


def _names(shapes: Shapes) -> Iterator[str]:
    depth = 6 * counted_layers(shapes, "layer.0.block.{}.conv.0.weight") + 4
    factor, odd = divmod(side(shapes, "layer.0.block.0.conv.0.weight"), FIRST)
    if not odd:
        yield from (f"dm-wrn-{depth}-{factor}{option}" for option in ("", "-relu"))


FAMILY = Family(
    pattern=r"dm-wrn-(?P<depth>\d{2,4})-(?P<factor>\d{1,3})(?P<relu>-relu)?",
    listed=("dm-wrn-28-10", "dm-wrn-34-20", "dm-wrn-70-16"),
    anchor="layer.0.block.0.conv_0.weight",
    member=_member,
    names=_names,
    others="dm-wrn-D-W of any depth D = 6n + 4 and factor W, with -relu",
)
