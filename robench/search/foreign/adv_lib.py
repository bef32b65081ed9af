"""Attacks of adv-lib, for `robench doctor`. Evaluations do not use them.

Rony and Ben Ayed 2020, https://doi.org/10.5281/zenodo.5815063; https://github.com/jeromerony/adversarial-library.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...problem.shapes import Inputs
from ...problem.threats import Ball
from ..attack import Batch
from .library import LibraryAttack, Network, library

MODULE, INSTALL = "adv_lib", "adv-lib"


@dataclass(frozen=True)
class AdvLibAttack(LibraryAttack):
    """One attack of adv-lib with the settings that differ from its defaults."""

    source: ClassVar[str] = "adv-lib, https://github.com/jeromerony/adversarial-library"
    prefix: ClassVar[str] = "adv-lib:"

    def attacked(self, network: Network, threat: Ball, batch: Batch) -> Inputs:
        given: dict[str, Any] = dict(self.settings)
        if len(self.norms) > 1:
            given["norm"] = threat.p
        if not self.minimal:
            given["ε" if self.kind == "pgd_linf" else "eps"] = threat.r
        if self.kind == "apgd_targeted":
            given["num_targets"] = network(batch.x[:1]).shape[1] - 1
        attack = getattr(library("adv_lib.attacks", install=INSTALL), self.kind)
        x_adv: Inputs = attack(network, batch.x, batch.y, **given)
        return x_adv


def attacks() -> list[AdvLibAttack]:
    """The attacks that `robench doctor` checks."""
    three = ("linf", "l2", "l1")
    return [
        AdvLibAttack("pgd_linf", (("steps", 40), ("relative_step_size", 0.1)), ("linf",), minimal=False),
        AdvLibAttack("apgd", (("n_iter", 30),), three, minimal=False),
        AdvLibAttack("apgd_targeted", (("n_iter", 30),), three, minimal=False),
        AdvLibAttack("fab", (("n_iter", 30),), three, minimal=True),
        AdvLibAttack("fmn", (("steps", 60),), (*three, "l0"), minimal=True),
        AdvLibAttack("ddn", (("steps", 60), ("levels", None)), ("l2",), minimal=True),
        AdvLibAttack("carlini_wagner_l2", (("binary_search_steps", 7), ("max_iterations", 50)), ("l2",), minimal=True),
        AdvLibAttack("alma", (("num_steps", 100),), ("l2",), minimal=True),
        AdvLibAttack("pdpgd", (("num_steps", 100),), (*three, "l0"), minimal=True),
        AdvLibAttack("df", (), ("linf", "l2"), minimal=True),
        AdvLibAttack("sigma_zero", (("num_steps", 100),), ("l0",), minimal=True),
    ]
