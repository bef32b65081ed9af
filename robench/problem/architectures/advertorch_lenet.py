"""The network that advertorch, Ding et al. 2019, https://arxiv.org/abs/1902.07623, calls LeNet-5."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import Architecture

FEATURES = 200


class AdvertorchLeNet(nn.Module):
    """Two padded 3x3 convolutions of 32 and 64 maps, each with max-pooling, and two dense layers; ReLU."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        channels, height, width = shape
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(64 * (height // 4) * (width // 4), FEATURES)
        self.linear2 = nn.Linear(FEATURES, classes)

    def forward(self, x: Inputs) -> Logits:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        logits: Tensor = self.linear2(F.relu(self.linear1(x.flatten(1))))
        return logits


ARCHITECTURE = Architecture(
    "lenet5-advertorch",
    "the LeNet-5 of advertorch, Ding et al. 2019 (arXiv:1902.07623): 3x3 convolutions of 32 and 64 maps",
    AdvertorchLeNet,
    "conv1.weight",
    "linear2.weight",
    by_shapes=False,
)
