"""The MNIST network of Madry et al. 2018, https://arxiv.org/abs/1706.06083, also used by Tramèr & Boneh and MSD."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits


class MadryCNN(nn.Module):
    """Two 5x5 convolutions, each followed by ReLU and 2x2 max-pooling, and a dense layer of 1024.

    It has PyTorch's default initialisation, as in MSD, and flattens channels first.
    """

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        channels, height, width = shape
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(64 * (height // 4) * (width // 4), 1024)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, x: Inputs) -> Logits:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        logits: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits
