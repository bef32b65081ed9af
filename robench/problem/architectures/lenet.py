"""LeNet-5 with modern layers, after LeCun et al. 1998, https://doi.org/10.1109/5.726791."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..shapes import Inputs, Logits


class LeNet(nn.Module):
    """Convolutions of 6 and 16 maps, dense layers of 120 and 84; ReLU and max-pooling.

    The first convolution is padded only below 32 pixels, so that 28x28 digits and 32x32 images both
    reach the dense layers as 16 maps of 5x5, as in the paper.
    """

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        channels, height, width = shape
        padding = 2 if min(height, width) < 32 else 0
        reach = [((side + 2 * padding - 4) // 2 - 4) // 2 for side in (height, width)]
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * reach[0] * reach[1], 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Inputs) -> Logits:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))
        logits: Tensor = self.fc3(x)
        return logits
