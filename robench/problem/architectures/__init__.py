"""The registered networks, one file each; `ARCHITECTURES` lists them.

To add one, write its file and add its entry here. No other code depends on the individual networks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from torch import nn

from ...errors import UserError
from . import chain
from .digits_cnn import DigitsCNN
from .lenet import LeNet
from .madry_cnn import MadryCNN
from .preactresnet import PreActResNet18, softplus
from .wide_resnet import WideResNet
from .wong_kolter import WongKolterCNN

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a state dict by key, in its order."""


@runtime_checkable
class Make(Protocol):
    """A function that makes a network for images of `shape` (channels, height, width) with `classes` outputs."""

    def __call__(self, shape: tuple[int, ...], classes: int) -> nn.Module: ...


@dataclass(frozen=True)
class Architecture:
    """A family of networks, one for each image shape and number of classes."""

    name: str
    description: str  # one line, with its source
    make: Make
    first: str  # the weight of the first layer: (maps, channels, ...)
    last: str  # the weight of the last layer: (classes, features)
    smallest: int = 8  # the minimal height and width, in pixels

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A network with random weights from torch's global generator. Raises UserError for images that do not fit."""
        if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < self.smallest:
            raise UserError(
                f"{self.name} reads images of (channels, height, width) with sides of at least {self.smallest} pixels, "
                f"not {'x'.join(map(str, shape))}; choose another architecture with --arch"
            )
        return self.make(shape, classes)

    def read(self, shapes: Shapes) -> tuple[int, int] | None:
        """The (channels, classes) of a state dict with these shapes; None if it is not of this family."""
        first, last = shapes.get(self.first, ()), shapes.get(self.last, ())
        return (first[1], last[0]) if len(first) == 4 and len(last) == 2 else None


def _wide_resnets() -> Iterator[Architecture]:
    """Wide residual networks by depth and factor; `-trades` are those with the unused weights of TRADES' files."""
    plain = "wide residual network, Zagoruyko & Komodakis 2016 (arXiv:1605.07146)"
    unused = "and the unused weights sub_block1, as in the files of TRADES and RST"
    for depth, factor, in_trades in ((10, 2, False), (16, 4, False), (28, 10, True), (34, 10, True)):
        name, make = f"wrn-{depth}-{factor}", partial(WideResNet, depth=depth, factor=factor)
        if in_trades:  # before the network that their files would fit as well
            longer = partial(make, unused_block=True)
            yield Architecture(f"{name}-trades", f"{name} {unused}", longer, "conv1.weight", "fc.weight", smallest=1)
        yield Architecture(name, plain, make, "conv1.weight", "fc.weight", smallest=1)


def known(name: str) -> bool:
    """Whether robench has the code of an architecture: a registered one, or a chain."""
    return name in ARCHITECTURES or chain.is_chain(name)


ARCHITECTURES: Mapping[str, Architecture] = {
    architecture.name: architecture
    # If two have equal keys and shapes, a state dict is recognised as the first.
    for architecture in (
        Architecture(
            "madry-mnist",
            "the MNIST network of Madry et al. 2018 (arXiv:1706.06083)",
            MadryCNN,
            "conv1.weight",
            "fc2.weight",
        ),
        Architecture(
            "digits-cnn",
            "a network of 219 kB for 28x28 digits, after Wong & Kolter 2018 (arXiv:1711.00851)",
            DigitsCNN,
            "conv1.weight",
            "fc2.weight",
        ),
        Architecture(
            "wong-kolter-mnist",
            "the small MNIST network of Wong & Kolter 2018 (arXiv:1711.00851), 166 thousand weights",
            WongKolterCNN,
            "conv1.weight",
            "fc2.weight",
        ),
        Architecture(
            "lenet",
            "LeNet-5 with ReLU and max-pooling, after LeCun et al. 1998",
            LeNet,
            "conv1.weight",
            "fc3.weight",
            smallest=12,
        ),
        Architecture(
            "preactresnet18",
            "pre-activation ResNet-18 for small images, He et al. 2016 (arXiv:1603.05027)",
            PreActResNet18,
            "conv1.weight",
            "linear.weight",
            smallest=1,
        ),
        Architecture(
            "preactresnet18-softplus",
            "the same with softplus, beta 1, as in E-AT, Croce & Hein 2022 (arXiv:2105.12508)",
            partial(PreActResNet18, activation=softplus),
            "conv1.weight",
            "linear.weight",
            smallest=1,
        ),
        Architecture(
            "preactresnet18-no-final-bn",
            "preactresnet18 without the norm and ReLU after the last block, a common variant",
            partial(PreActResNet18, final_bn=False),
            "conv1.weight",
            "linear.weight",
            smallest=1,
        ),
        Architecture(
            "preactresnet18-narrow",
            "preactresnet18 with half as many maps, 32 to 256",
            partial(PreActResNet18, width=32),
            "conv1.weight",
            "linear.weight",
            smallest=1,
        ),
        *_wide_resnets(),
    )
}
