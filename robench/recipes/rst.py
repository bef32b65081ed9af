"""RST, robust self-training, Carmon et al. 2019, section 4. https://arxiv.org/abs/1905.13736

`AdversarialTraining.train` in adversarial.py runs the loop and calls `Trades.train_step` on every batch, of which half
has pseudo-labels.

robench train rst --data cifar10 --pseudo-labelled rst.npz --threat linf:8/255 --out cifar10-rst
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..settings import NonNegative
from .adversarial import AdversarialTraining
from .trades import Trades


@dataclass(frozen=True)
class RobustSelfTraining(Trades):
    """TRADES on labelled images and, in equal number, on images that a network without robustness has labelled.

    The loss does not know which labels are which. The authors take 500,000 images from Tiny Images beside CIFAR-10.
    """

    name: ClassVar[str] = "rst"
    source: ClassVar[str] = (
        "TRADES with pseudo-labelled images, robust self-training, Carmon et al. 2019, https://arxiv.org/abs/1905.13736"
    )
    presets: ClassVar[dict[str, dict[str, Any]]] = AdversarialTraining.presets
    self_training: ClassVar[bool] = True

    beta: NonNegative = 6.0  # weight of the divergence, as in the paper
