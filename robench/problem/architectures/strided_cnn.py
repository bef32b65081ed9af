"""A small network for photographs of 32 by 32 pixels: 0.16 MB of float16 weights."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits


class StridedCNN(nn.Module):
    """Three convolutions with batch norm and ReLU, the first two strided, then mean pooling and one dense layer.

    `benchmarks/small_networks.py` compares it with others at equal training times on one thread.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, maps: tuple[int, int, int] = (32, 64, 64)):
        super().__init__()
        channels, height, width = shape
        first, second, third = maps
        self.conv1 = nn.Conv2d(channels, first, 4, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 4, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(third)
        self.fc = nn.Linear(third * (height // 8) * (width // 8), classes)

    def forward(self, x: Inputs) -> Logits:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        logits: Tensor = self.fc(F.avg_pool2d(x, 2).flatten(1))
        return logits
