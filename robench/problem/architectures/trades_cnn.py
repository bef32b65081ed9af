"""The MNIST network of TRADES, Zhang et al. 2019, https://arxiv.org/abs/1901.08573, after Carlini & Wagner 2017."""

from collections import OrderedDict

from torch import Tensor, nn

from ..shapes import Inputs, Logits
from .registry import Architecture

MAPS = 64
FEATURES = 200


class TradesCNN(nn.Module):
    """Four 3x3 convolutions without padding, max-pooling after every second, and three dense layers; ReLU."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        channels, *sides = shape
        height, width = (((side - 4) // 2 - 4) // 2 for side in sides)
        self.feature_extractor = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 32, 3), relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 32, 3), relu2=nn.ReLU(), maxpool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(32, MAPS, 3), relu3=nn.ReLU(),
                conv4=nn.Conv2d(MAPS, MAPS, 3), relu4=nn.ReLU(), maxpool2=nn.MaxPool2d(2),
            )
        )  # fmt: skip
        self.classifier = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(MAPS * height * width, FEATURES), relu1=nn.ReLU(), drop=nn.Dropout(),
                fc2=nn.Linear(FEATURES, FEATURES), relu2=nn.ReLU(), fc3=nn.Linear(FEATURES, classes),
            )
        )  # fmt: skip

    def forward(self, x: Inputs) -> Logits:
        logits: Tensor = self.classifier(self.feature_extractor(x).flatten(1))
        return logits


ARCHITECTURE = Architecture(
    "trades-mnist",
    "the MNIST network of TRADES, Zhang et al. 2019 (arXiv:1901.08573), after Carlini & Wagner 2017",
    TradesCNN,
    "feature_extractor.conv1.weight",
    "classifier.fc3.weight",
    smallest=16,
    by_shapes=False,
)
