"""Pre-activation residual network of 18 layers for small images, He et al. 2016, https://arxiv.org/abs/1603.05027.

The keys are those that Rice et al. 2020, E-AT, RAMP and RobustBench use.
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..shapes import Inputs, Logits

Activation = Callable[[Tensor], Tensor]
Incoming = Float[Tensor, "B C H W"]
Outgoing = Float[Tensor, "B C_out H_out W_out"]


class PreActBlock(nn.Module):
    """Norm, activation and 3x3 convolution, twice, with a shortcut that starts after the first activation."""

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


class PreActResNet18(nn.Module):
    """Four stages of two blocks, `width` to 8 `width` maps, averaged over the image before the dense layer.

    `final_bn` is the norm and activation after the last block, which the paper has and a widespread
    implementation omits. The weights do not depend on the image size.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        activation: Activation = F.relu,
        final_bn: bool = True,
        width: int = 64,
    ):
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.layer1 = _stage(width, width, 1, activation)
        self.layer2 = _stage(width, 2 * width, 2, activation)
        self.layer3 = _stage(2 * width, 4 * width, 2, activation)
        self.layer4 = _stage(4 * width, 8 * width, 2, activation)
        self.bn = nn.BatchNorm2d(8 * width) if final_bn else None
        self.linear = nn.Linear(8 * width, classes)

    def forward(self, x: Inputs) -> Logits:
        maps = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if self.bn is not None:
            maps = self.activation(self.bn(maps))
        logits: Tensor = self.linear(maps.mean(dim=(2, 3)))
        return logits


def softplus(x: Tensor) -> Tensor:
    """The function log(1 + exp(x)), the `softplus1` of E-AT (Croce & Hein 2022, https://arxiv.org/abs/2105.12508)."""
    return F.softplus(x, beta=1)


def _stage(incoming: int, outgoing: int, stride: int, activation: Activation) -> nn.Sequential:
    return nn.Sequential(
        PreActBlock(incoming, outgoing, stride, activation), PreActBlock(outgoing, outgoing, 1, activation)
    )
