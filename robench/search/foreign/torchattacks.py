"""Attacks of torchattacks, for `robench doctor`. Evaluations do not use them: see the findings of `robench doctor`.

Kim 2020, https://arxiv.org/abs/2010.01950; https://github.com/Harry24k/adversarial-attacks-pytorch.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...problem.shapes import Inputs
from ...problem.threats import Ball
from ..attack import Batch, batch_seed
from .library import LibraryAttack, Network, library

MODULE = "torchattacks"
BALL = ("linf", "l2")
STRIDE = 0.1  # of the radius


@dataclass(frozen=True)
class Torchattack(LibraryAttack):
    """One attack of torchattacks with the settings that differ from its defaults."""

    source: ClassVar[str] = "torchattacks, https://github.com/Harry24k/adversarial-attacks-pytorch"
    prefix: ClassVar[str] = "torchattacks:"

    def attacked(self, network: Network, threat: Ball, batch: Batch) -> Inputs:
        given: dict[str, Any] = dict(self.settings)
        if not self.minimal:
            given["eps"] = threat.r
        if self.kind in ("PGD", "PGDL2"):
            given["alpha"] = STRIDE * threat.r
        if len(self.norms) > 1:
            given |= {"norm": {"linf": "Linf", "l2": "L2"}[threat.name], "seed": batch_seed(batch) % 2**31}
        if self.kind in ("APGDT", "FAB", "AutoAttack"):
            given["n_classes"] = network(batch.x[:1]).shape[1]
        attack = getattr(library(MODULE, install=MODULE), self.kind)(network, **given)
        x_adv: Inputs = attack(batch.x, batch.y)
        return x_adv


def attacks() -> list[Torchattack]:
    """The attacks that `robench doctor` checks."""
    return [
        Torchattack("FGSM", (), ("linf",), minimal=False),
        Torchattack("PGD", (("steps", 40),), ("linf",), minimal=False),
        Torchattack("PGDL2", (("steps", 40),), ("l2",), minimal=False),
        Torchattack("CW", (("steps", 200),), ("l2",), minimal=True),
        Torchattack("EADL1", (("binary_search_steps", 5), ("max_iterations", 50)), ("l1",), minimal=True),
        Torchattack("DeepFool", (), ("l2",), minimal=True),
        Torchattack("APGD", (("steps", 30),), BALL, minimal=False),
        Torchattack("APGDT", (("steps", 30),), BALL, minimal=False),
        Torchattack("FAB", (("steps", 30),), BALL, minimal=False),
        Torchattack("Square", (("n_queries", 300),), BALL, minimal=False),
        Torchattack("AutoAttack", (), BALL, minimal=False),
    ]
