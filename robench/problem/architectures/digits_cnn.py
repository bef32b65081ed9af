"""A network for 28x28 digits, small enough to be part of the package: 219 kB of float32 weights."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits


class DigitsCNN(nn.Module):
    """Three 4x4 convolutions of stride 2 (16, 32, 32 maps) and a dense layer of 100; ReLU.

    The small network of Wong & Kolter 2018, https://arxiv.org/abs/1711.00851, with a third convolution in
    place of most of its dense weights. Trained against PGD at l_inf 0.2 on 8x8 digits enlarged to 28x28, its
    robust accuracy equalled that of networks of two convolutions at that size, and its clean accuracy was 1 %
    higher.
    """

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        channels, height, width = shape
        self.conv1 = nn.Conv2d(channels, 16, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(32, 32, 4, stride=2, padding=1)
        self.fc1 = nn.Linear(32 * (height // 8) * (width // 8), 100)
        self.fc2 = nn.Linear(100, classes)

    def forward(self, x: Inputs) -> Logits:
        x = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))
        logits: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits
