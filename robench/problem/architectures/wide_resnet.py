"""Wide residual networks for small images, Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146.

The keys are those that TRADES, Carmon et al. 2019, MNG-AC and RobustBench use.
"""

import re
from collections.abc import Iterator
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import Architecture, Family, Shapes, counted_layers, side
from .resnet import Incoming, Outgoing

FIRST = 16  # maps of the first convolution
STRIDES = 1, 2, 2  # of the three blocks


class BasicBlock(nn.Module):
    """Norm, ReLU and 3x3 convolution, twice, with a shortcut: the block B(3, 3) of the paper.

    Where the number of maps changes, the shortcut is a 1x1 convolution of the activated maps; elsewhere it is the
    identity.
    """

    def __init__(self, incoming: int, outgoing: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(incoming)
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outgoing)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        same = incoming == outgoing and stride == 1
        self.convShortcut = None if same else nn.Conv2d(incoming, outgoing, 1, stride, bias=False)

    def forward(self, x: Incoming) -> Outgoing:
        active = F.relu(self.bn1(x))
        carried = x if self.convShortcut is None else self.convShortcut(active)
        maps: Tensor = carried + self.conv2(F.relu(self.bn2(self.conv1(active))))
        return maps


class NetworkBlock(nn.Module):
    """A group of basic blocks, of which the first changes the number and the size of the maps."""

    def __init__(self, blocks: int, incoming: int, outgoing: int, stride: int):
        super().__init__()
        others = [BasicBlock(outgoing, outgoing, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(BasicBlock(incoming, outgoing, stride), *others)

    def forward(self, x: Incoming) -> Outgoing:
        maps: Tensor = self.layer(x)
        return maps


class WideResNet(nn.Module):
    """WRN-depth-factor: three groups of (depth - 4) / 6 blocks with 16, 32 and 64 times `factor` maps.

    `unused_block` adds `sub_block1`, a second first group that no image passes: TRADES and Carmon et al. made and
    saved it, so their files hold its weights. The maps are averaged over the image before the dense layer, and the
    weights do not depend on the image size.
    """

    def __init__(
        self, shape: tuple[int, ...], classes: int, *, depth: int, factor: int, unused_block: bool = False
    ) -> None:
        super().__init__()
        blocks, odd = divmod(depth - 4, 6)
        assert blocks, "a depth is 10 or more"
        assert not odd, "a depth is 6n + 4"
        widths = FIRST, FIRST * factor, 2 * FIRST * factor, 4 * FIRST * factor
        self.conv1 = nn.Conv2d(shape[0], FIRST, 3, padding=1, bias=False)
        self.block1 = NetworkBlock(blocks, *widths[:2], STRIDES[0])
        if unused_block:
            self.sub_block1 = NetworkBlock(blocks, *widths[:2], STRIDES[0])
        self.block2 = NetworkBlock(blocks, *widths[1:3], STRIDES[1])
        self.block3 = NetworkBlock(blocks, *widths[2:], STRIDES[2])
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Inputs) -> Logits:
        maps = self.block3(self.block2(self.block1(self.conv1(x))))
        logits: Tensor = self.fc(F.relu(self.bn1(maps)).mean(dim=(2, 3)))
        return logits


def _member(name: re.Match[str]) -> Architecture | None:
    depth, factor, in_trades = int(name["depth"]), int(name["factor"]), name["unused"] is not None
    if depth < 10 or depth % 6 != 4 or factor < 1:
        return None
    about = "wide residual network, Zagoruyko & Komodakis 2016 (arXiv:1605.07146)"
    if in_trades:
        about = f"wrn-{depth}-{factor} and the unused weights sub_block1, as in the files of TRADES and RST"
    make = partial(WideResNet, depth=depth, factor=factor, unused_block=in_trades)
    return Architecture(
        name[0], about, make, "conv1.weight", "fc.weight", smallest=1, by_shapes=depth <= 34 and factor <= 10
    )


def _names(shapes: Shapes) -> Iterator[str]:
    depth = 6 * counted_layers(shapes, "block1.layer.{}.conv1.weight") + 4
    factor, odd = divmod(side(shapes, "block1.layer.0.conv1.weight"), FIRST)
    if not odd and "block3.layer.0.conv1.weight" in shapes:
        unused = "sub.block1.layer.0.conv1.weight" in shapes
        yield f"wrn-{depth}-{factor}" + ("-trades" if unused else "")


FAMILY = Family(
    pattern=r"wrn-(?P<depth>\d{2,4})-(?P<factor>\d{1,3})(?P<unused>-trades)?",
    listed=(
        "wrn-10-2",
        "wrn-16-4",
        "wrn-28-10-trades",
        "wrn-28-10",
        "wrn-34-10-trades",
        "wrn-34-10",
        "wrn-34-20",
        "wrn-70-16",
    ),
    anchor="block1.layer.0.conv1.weight",
    member=_member,
    names=_names,
    others="wrn-D-W of any depth D = 6n + 4 and factor W, with -trades for the unused weights",
)
