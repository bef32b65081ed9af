"""The small MNIST network of Wong and Kolter 2018, 0.7 MB of float32 weights, and one of twice its width."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits


class WongKolterCNN(nn.Module):
    """Two 4x4 convolutions of stride 2 (16 and 32 `maps`) and dense layers of 100 (`hidden`) and the classes; ReLU.

    Wong and Kolter 2018, https://arxiv.org/abs/1711.00851, appendix: 166,406 weights for MNIST.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, maps: tuple[int, int] = (16, 32), hidden: int = 100):
        super().__init__()
        channels, height, width = shape
        self.conv1 = nn.Conv2d(channels, maps[0], 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(maps[0], maps[1], 4, stride=2, padding=1)
        self.fc1 = nn.Linear(maps[1] * (height // 4) * (width // 4), hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Inputs) -> Logits:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        logits: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits


DoubledWongKolterCNN = partial(WongKolterCNN, maps=(32, 64), hidden=200)
"""The network of twice the width: 662,786 weights for MNIST."""
