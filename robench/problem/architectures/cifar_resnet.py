"""Residual networks for CIFAR-10, He et al. 2016, https://arxiv.org/abs/1512.03385, section 4.2.

The keys are those of akamaster's pytorch_resnet_cifar10.
"""

import re
from collections.abc import Iterator
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import Architecture, Family, Shapes, counted_layers
from .resnet import BasicBlock, Incoming, Outgoing, stage

WIDTH = 16  # maps of the first stage


class PaddedBlock(BasicBlock):
    """A basic block whose shortcut has no weights (option A): every second pixel, with maps of zeros on both sides."""

    def __init__(self, incoming: int, maps: int, stride: int):
        super().__init__(incoming, maps, stride)
        self._modules.pop(self.called, None)
        self.stride, self.added = stride, maps - incoming

    def carried(self, x: Incoming) -> Outgoing:
        front = self.added // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, front, self.added - front))


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of 16, 32 and 64 maps, the average over the image, a dense layer.

    Of `depth` = 6n + 2 layers, n blocks in each stage. `projected` is option B of the paper: 1x1 convolutions as
    shortcuts where the maps change; else option A. The weights do not depend on the image size.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, depth: int, projected: bool):
        super().__init__()
        blocks, make = (depth - 2) // 6, BasicBlock if projected else PaddedBlock
        self.conv1 = nn.Conv2d(shape[0], WIDTH, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.layer1 = stage(make, 1, blocks, WIDTH, WIDTH, 1)
        self.layer2 = stage(make, 1, blocks, WIDTH, 2 * WIDTH, 2)
        self.layer3 = stage(make, 1, blocks, 2 * WIDTH, 4 * WIDTH, 2)
        self.linear = nn.Linear(4 * WIDTH, classes)

    def forward(self, x: Inputs) -> Logits:
        maps = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.linear(maps.mean(dim=(2, 3)))
        return logits


def _member(name: re.Match[str]) -> Architecture | None:
    depth, projected = int(name["depth"]), name["projected"] is not None
    if depth < 8 or depth % 6 != 2:
        return None
    about = (
        f"residual network of {depth} layers for CIFAR-10, He et al. 2016 (arXiv:1512.03385), shortcuts of option "
        f"{'B: 1x1 convolutions' if projected else 'A: without weights'}"
    )
    make = partial(CifarResNet, depth=depth, projected=projected)
    return Architecture(name[0], about, make, "conv1.weight", "linear.weight", smallest=1, by_shapes=False)


def _names(shapes: Shapes) -> Iterator[str]:
    blocks = counted_layers(shapes, "layer3.{}.conv1.weight")
    option = "-b" if "layer2.0.shortcut.0.weight" in shapes else ""
    yield f"cifar-resnet{6 * blocks + 2}{option}"


FAMILY = Family(
    pattern=r"cifar-resnet(?P<depth>\d{1,5})(?P<projected>-b)?",
    listed=tuple(f"cifar-resnet{depth}{option}" for option in ("", "-b") for depth in (20, 32, 44, 56, 110)),
    anchor="layer3.0.conv1.weight",
    member=_member,
    names=_names,
    others="cifar-resnetD of any depth D = 6n + 2, with -b for option B",
)
