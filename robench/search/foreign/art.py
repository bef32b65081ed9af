"""Attacks of the Adversarial Robustness Toolbox, for `robench doctor`. Evaluations do not use them.

Nicolae et al. 2018, https://arxiv.org/abs/1807.01069; https://github.com/Trusted-AI/adversarial-robustness-toolbox.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ...problem.shapes import Inputs
from ...problem.threats import Ball
from ..attack import Batch
from .library import LibraryAttack, Network, library

MODULE, INSTALL = "art", "adversarial-robustness-toolbox"
STRIDE = 0.1  # of the radius


@dataclass(frozen=True)
class ARTAttack(LibraryAttack):
    """One attack of ART with the settings that differ from its defaults."""

    source: ClassVar[str] = "ART, https://github.com/Trusted-AI/adversarial-robustness-toolbox"
    prefix: ClassVar[str] = "art:"

    def attacked(self, network: Network, threat: Ball, batch: Batch) -> Inputs:
        given: dict[str, Any] = dict(self.settings)
        if self.kind != "BoundaryAttack":
            given["batch_size"] = len(batch.y)
        if not self.minimal:
            given |= {"eps": threat.r, "norm": threat.p}
        if "PGD" in self.kind or "ProjectedGradientDescent" in self.kind:
            given["eps_step"] = STRIDE * threat.r
        if self.kind == "HopSkipJump":
            given["norm"] = threat.p
        classifier = library("art.estimators.classification", install=INSTALL).PyTorchClassifier(
            network,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(batch.x.shape[1:]),
            nb_classes=network(batch.x[:1]).shape[1],
            clip_values=(0.0, 1.0),
            device_type="cpu" if batch.x.device.type == "cpu" else "gpu",
        )
        attack = getattr(library("art.attacks.evasion", install=INSTALL), self.kind)(classifier, **given)
        made = attack.generate(x=batch.x.cpu().numpy(), y=batch.y.cpu().numpy())
        return torch.from_numpy(made).to(batch.x)


def attacks() -> list[ARTAttack]:
    """The attacks that `robench doctor` checks."""
    quiet = ("verbose", False)
    three, two = ("linf", "l2", "l1"), ("linf", "l2")
    return [
        ARTAttack("FastGradientMethod", (), three, minimal=False),
        ARTAttack("ProjectedGradientDescentPyTorch", (("max_iter", 40), quiet), three, minimal=False),
        ARTAttack("AutoProjectedGradientDescent", (("max_iter", 30), quiet), three, minimal=False),
        ARTAttack("SquareAttack", (("max_iter", 300), quiet), two, minimal=False),
        ARTAttack("CarliniL2Method", (("binary_search_steps", 7), ("max_iter", 50), quiet), ("l2",), minimal=True),
        ARTAttack("ElasticNet", (("binary_search_steps", 7), ("max_iter", 50), quiet), ("l1",), minimal=True),
        ARTAttack("DeepFool", (quiet,), ("l2",), minimal=True),
        ARTAttack("HopSkipJump", (("max_iter", 5), ("max_eval", 200), quiet), two, minimal=True),
        ARTAttack("BoundaryAttack", (("targeted", False), ("max_iter", 50), quiet), ("l2",), minimal=True),
    ]
