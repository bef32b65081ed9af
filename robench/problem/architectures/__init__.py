"""The registered networks, one file for each paper; `ARCHITECTURES` lists them.

To add one, write its file and add its entry here. No other code depends on the individual networks.
"""

from collections.abc import Mapping
from functools import lru_cache

from . import (
    advertorch_lenet,
    chain,
    cifar_resnet,
    densenet,
    dm_wide_resnet,
    imagenet_resnet,
    mobilenet,
    preactresnet,
    resnet,
    trades_cnn,
    vgg,
    vit,
    wide_resnet,
)
from .digits_cnn import DigitsCNN
from .lenet import LeNet
from .madry_cnn import MadryCNN
from .registry import Architecture, Family, Make, Shapes, dotted
from .strided_cnn import StridedCNN
from .wong_kolter import DoubledWongKolterCNN, WongKolterCNN

__all__ = [
    "ARCHITECTURES",
    "FAMILIES",
    "SINGLE",
    "Architecture",
    "Family",
    "Make",
    "Shapes",
    "dotted",
    "known",
    "named",
]

SINGLE: tuple[Architecture, ...] = (
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
        "strided-cnn",
        "three convolutions with batch norm, two of them strided, 82 thousand weights for CIFAR-10; ours",
        StridedCNN,
        "conv1.weight",
        "fc.weight",
    ),
    Architecture(
        "wong-kolter-mnist",
        "the small MNIST network of Wong & Kolter 2018 (arXiv:1711.00851), 166 thousand weights",
        WongKolterCNN,
        "conv1.weight",
        "fc2.weight",
    ),
    Architecture(
        "wong-kolter-mnist-wide",
        "wong-kolter-mnist with twice the maps and hidden features, 663 thousand weights; ours",
        DoubledWongKolterCNN,
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
    trades_cnn.ARCHITECTURE,
    advertorch_lenet.ARCHITECTURE,
)
"""Networks that belong to no family."""

FAMILIES: tuple[Family, ...] = (
    preactresnet.FAMILY,
    wide_resnet.FAMILY,
    dm_wide_resnet.FAMILY,
    resnet.FAMILY,
    imagenet_resnet.FAMILY,
    cifar_resnet.FAMILY,
    vgg.FAMILY,
    *densenet.FAMILIES,
    *mobilenet.FAMILIES,
    vit.FAMILY,
)


def named(name: str) -> Architecture | None:
    """The architecture of this name: one in the lists, or any member of a family."""
    return ARCHITECTURES.get(name) or _member(name)


@lru_cache(maxsize=256)
def _member(name: str) -> Architecture | None:
    found = (family.named(name) for family in FAMILIES)
    return next((member for member in found if member is not None), None)


def _listed() -> dict[str, Architecture]:
    members = [family.named(name) for family in FAMILIES for name in family.listed]
    return {architecture.name: architecture for architecture in (*SINGLE, *filter(None, members))}


def known(name: str) -> bool:
    """Whether robench has the code of an architecture: one with a name, or a chain."""
    return named(name) is not None or chain.is_chain(name)


ARCHITECTURES: Mapping[str, Architecture] = _listed()
"""The architectures in lists. If two have equal keys and shapes, a state dict is recognised as the first.

Other members of the families are recognised, and can be named, as well: see `named`.
"""
