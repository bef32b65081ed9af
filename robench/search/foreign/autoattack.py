"""AutoAttack in its authors' code, as a reference for ours: https://github.com/fra31/auto-attack.

Only its attack classes are used. Its runner has a broken resume, requires at least ten classes, aims at exactly nine of
them, and reuses one seed. The package `pyautoattack` has the same classes as the authors' repository.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ...problem.losses import misclassified
from ...problem.threats import Ball
from ...settings import Count
from ..attack import Batch, ForeignAttack, Model, batch_seed, take_rows
from .library import library

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
TARGETS = 9  # classes that FAB aims at, and APGD except in l_1


@dataclass(frozen=True)
class AutoAttackReference(ForeignAttack):
    """APGD on cross-entropy, targeted APGD, targeted FAB, and Square, each on the examples still standing.

    The standard version of Croce and Hein 2020, https://arxiv.org/abs/2003.01690, with its budgets; in l_1 that of
    Croce and Hein 2021, https://arxiv.org/abs/2103.01208. Their targeted loss needs four classes: with three,
    APGD maximises their untargeted loss instead, which needs three; with two, cross-entropy alone is enough. With fewer
    wrong classes than targets, each is aimed at once.
    """

    name: ClassVar[str] = "autoattack-reference"
    source: ClassVar[str] = "AutoAttack in its authors' code, Croce and Hein 2020, https://arxiv.org/abs/2003.01690"
    threats: ClassVar[tuple[str, ...]] = tuple(NORMS)

    steps: Count = 100  # of APGD and FAB, for each start and target
    queries: Count = 5000  # of Square

    def __post_init__(self) -> None:
        super().__post_init__()
        _part("autopgd_base")  # fails now if it is not installed, not after an hour

    def max_queries(self, threat: Ball) -> int:
        starts, targets = _budget(threat)
        return self.steps * (starts + targets + 3 * TARGETS) + self.queries

    def run(self, model: Model, threat: Ball, batch: Batch) -> None:
        classes = model(batch.x[:1]).shape[1]
        for attack in self._attacks(model, threat, classes, batch):
            x, y = batch.x.contiguous(), batch.y
            x_adv = attack.perturb(x, y).detach()
            broken = misclassified(model(x_adv), y) & threat.contains(x_adv, x)
            batch = take_rows(batch, (~broken).nonzero().flatten())
            if not len(batch.y):
                return

    def _attacks(self, model: Model, threat: Ball, classes: int, batch: Batch) -> Iterator[Any]:
        """The four attacks, each made when its turn comes, with a seed of this batch."""
        starts, targets = _budget(threat)
        common = {"norm": NORMS[threat.name], "eps": threat.r, "device": batch.x.device, "seed": batch_seed(batch)}
        apgd = {"n_iter": self.steps, "use_largereps": threat.name == "l1", **common}
        yield _part("autopgd_base").APGDAttack(model, n_restarts=starts, loss="ce", **apgd)
        if classes > 3:
            n = min(targets, classes - 1)
            yield _part("autopgd_base").APGDAttack_targeted(model, n_restarts=1, n_target_classes=n, **apgd)
        elif classes == 3:
            yield _part("autopgd_base").APGDAttack(model, n_restarts=1, loss="dlr", **apgd)
        n = min(TARGETS, classes - 1)
        fab = {"n_iter": self.steps, "n_restarts": 1, "targeted": True, "n_target_classes": n}
        yield _part("fab_pt").FABAttack_PT(model, **fab, **common)
        square = {"n_queries": self.queries, "p_init": 0.8, "n_restarts": 1, "resc_schedule": False}
        yield _part("square").SquareAttack(model, **square, **common)


def _budget(threat: Ball) -> tuple[int, int]:
    """The numbers of random starts of APGD on cross-entropy, and of targets of targeted APGD."""
    return (5, 5) if threat.name == "l1" else (1, TARGETS)


def _part(module: str) -> Any:
    """A module of the authors' package, or of `pyautoattack` from the package index."""
    return library(f"autoattack.{module}", f"pyautoattack.{module}", install="pyautoattack>=0.2,<0.3")
