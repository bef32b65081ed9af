"""Pre-activation residual networks for small images, He et al. 2016, https://arxiv.org/abs/1603.05027.

The keys are those that kuangliu's pytorch-cifar, Rice et al. 2020, E-AT, RAMP and RobustBench use.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import Architecture, Family, Shapes, side
from .resnet import BOTTLENECK, DEPTHS, STRIDES, WIDTH, Incoming, Outgoing, depth_of

Activation = Callable[[Tensor], Tensor]
NARROW = 32  # the width of the networks called narrow


class PreActBlock(nn.Module):
    """Norm, activation and 3x3 convolution, twice, with a shortcut that starts after the first activation."""

    expansion = 1

    def __init__(self, incoming: int, outgoing: int, stride: int, activation: Activation):
        super().__init__()
        self.activation = activation
        self.bn1 = nn.BatchNorm2d(incoming)
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outgoing)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or incoming != outgoing:
            self.shortcut = nn.Sequential(nn.Conv2d(incoming, outgoing, 1, stride, bias=False))

    def forward(self, x: Incoming) -> Outgoing:
        active = self.activation(self.bn1(x))
        # A shortcut with weights takes the activated maps; the identity shortcut takes x itself.
        carried = x if self.shortcut is None else self.shortcut(active)
        maps: Tensor = carried + self.conv2(self.activation(self.bn2(self.conv1(active))))
        return maps


class PreActBottleneck(nn.Module):
    """Norm, activation and convolution, three times: 1x1, 3x3 and 1x1, with four times as many maps after the last.

    The shortcut starts after the first activation, and the stride is in the 3x3 convolution, as in public code.
    """

    expansion = 4

    def __init__(self, incoming: int, maps: int, stride: int, activation: Activation):
        super().__init__()
        outgoing = self.expansion * maps
        self.activation = activation
        self.bn1 = nn.BatchNorm2d(incoming)
        self.conv1 = nn.Conv2d(incoming, maps, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(maps)
        self.conv3 = nn.Conv2d(maps, outgoing, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or incoming != outgoing:
            self.shortcut = nn.Sequential(nn.Conv2d(incoming, outgoing, 1, stride, bias=False))

    def forward(self, x: Incoming) -> Outgoing:
        active = self.activation(self.bn1(x))
        carried = x if self.shortcut is None else self.shortcut(active)
        inner = self.conv2(self.activation(self.bn2(self.conv1(active))))
        maps: Tensor = carried + self.conv3(self.activation(self.bn3(inner)))
        return maps


class PreActResNet(nn.Module):
    """Four stages of `width` to 8 `width` inner maps, averaged over the image before the dense layer.

    `final_bn` is the norm and activation after the last block, which the paper has and a widespread
    implementation omits. The weights do not depend on the image size.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        depth: int = 18,
        activation: Activation = F.relu,
        final_bn: bool = True,
        width: int = WIDTH,
    ):
        super().__init__()
        make = PreActBottleneck if depth >= BOTTLENECK else PreActBlock
        self.activation = activation
        self.conv1 = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        incoming = width
        for place, (blocks, stride) in enumerate(zip(DEPTHS[depth], STRIDES, strict=True)):
            maps, stage = width * 2**place, nn.Sequential()
            for number in range(blocks):
                stage.append(make(incoming, maps, 1 if number else stride, activation))
                incoming = make.expansion * maps
            self.add_module(f"layer{place + 1}", stage)
        self.bn = nn.BatchNorm2d(incoming) if final_bn else None
        self.linear = nn.Linear(incoming, classes)

    def forward(self, x: Inputs) -> Logits:
        maps = self.conv1(x)
        for number in range(1, 5):
            maps = self.get_submodule(f"layer{number}")(maps)
        if self.bn is not None:
            maps = self.activation(self.bn(maps))
        logits: Tensor = self.linear(maps.mean(dim=(2, 3)))
        return logits


def softplus(x: Tensor) -> Tensor:
    """The function log(1 + exp(x)), the `softplus1` of E-AT (Croce & Hein 2022, https://arxiv.org/abs/2105.12508)."""
    return F.softplus(x, beta=1)


def _member(name: re.Match[str]) -> Architecture | None:
    depth, smooth, final_bn = int(name["depth"]), name["smooth"] is not None, name["bare"] is None
    width = int(name["width"] or (NARROW if name["narrow"] else WIDTH))
    if depth not in DEPTHS or width < 1:
        return None
    about = f"pre-activation ResNet-{depth} for small images, He et al. 2016 (arXiv:1603.05027)"
    about += f", with {width} to {8 * width} maps" if width != WIDTH else ""
    about += ", without the norm and ReLU after the last block, a common variant" if not final_bn else ""
    about += ", with softplus, beta 1, as in E-AT, Croce & Hein 2022 (arXiv:2105.12508)" if smooth else ""
    make = partial(PreActResNet, depth=depth, activation=softplus if smooth else F.relu, final_bn=final_bn, width=width)
    return Architecture(name[0], about, make, "conv1.weight", "linear.weight", smallest=1, by_shapes=depth == 18)


def _names(shapes: Shapes) -> Iterator[str]:
    depth, width = depth_of(shapes, "conv3"), side(shapes, "conv1.weight")
    if depth is not None and "bn1.weight" not in shapes:
        size = "" if width == WIDTH else "-narrow" if width == NARROW else f"-w{width}"
        for smooth in ("", "-softplus"):
            yield f"preactresnet{depth}{size}{smooth}" + ("" if "bn.weight" in shapes else "-no-final-bn")


FAMILY = Family(
    pattern=(
        r"preactresnet(?P<depth>\d{2,3})((?P<narrow>-narrow)|-w(?P<width>\d{1,4}))?(?P<smooth>-softplus)?"
        r"(?P<bare>-no-final-bn)?"
    ),
    listed=(
        "preactresnet18",
        "preactresnet18-softplus",
        "preactresnet18-no-final-bn",
        "preactresnet18-narrow",
        "preactresnet34",
        "preactresnet50",
    ),
    anchor="layer1.0.conv1.weight",
    member=_member,
    names=_names,
    others="preactresnetD-wN for N maps in the first stage, then -softplus, and -no-final-bn",
)
