"""The public names for writing an attack of your own; `docs/how-to/extend.md` has an example.

An attack is a frozen dataclass that derives from `GradientAttack`, `ScoreAttack`, `LabelAttack` or `ForeignAttack`.
`robench.testing.check_attack` checks it against the contract of robench's own attacks.
"""

from .problem.losses import TARGETED, UNTARGETED, Loss, cross_entropy, dlr, margin
from .problem.noise import normal, uniform
from .problem.shapes import Inputs, Labels, Logits, PerExample, per_example
from .problem.threats import L0, L1, L2, RT, AffineBalls, AffineRT, Ball, Linf, ThreatModel, inward
from .search.attack import (
    Batch,
    Candidates,
    ForeignAttack,
    GradientAttack,
    LabelAttack,
    Model,
    ScoreAttack,
    Seen,
    State,
    batch_seed,
    differentiate,
)
from .search.attacks.pgd import PGD
from .settings import Bounds, Count, Targets

__all__ = [
    "L0",
    "L1",
    "L2",
    "PGD",
    "RT",
    "TARGETED",
    "UNTARGETED",
    "AffineBalls",
    "AffineRT",
    "Ball",
    "Batch",
    "Bounds",
    "Candidates",
    "Count",
    "ForeignAttack",
    "GradientAttack",
    "Inputs",
    "LabelAttack",
    "Labels",
    "Linf",
    "Logits",
    "Loss",
    "Model",
    "PerExample",
    "ScoreAttack",
    "Seen",
    "State",
    "Targets",
    "ThreatModel",
    "batch_seed",
    "cross_entropy",
    "differentiate",
    "dlr",
    "inward",
    "margin",
    "normal",
    "per_example",
    "uniform",
]
