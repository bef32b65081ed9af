"""PGD whose steps under l_1 follow the gradient."""

from dataclasses import dataclass

from ..problem.shapes import Inputs
from ..problem.threats import Ball, dense_steepest
from ..search.attacks.pgd import PGD


@dataclass(frozen=True)
class EuclideanPGD(PGD):
    """PGD with steps of a Euclidean length under l_1, projected onto the l_1 ball: Jiang et al. 2023.

    https://proceedings.mlr.press/v202/jiang23f.html. The projection sets small changes to 0, so the perturbations are
    sparse, but the coordinates that move are not chosen step by step. In training only; evaluations take SLIDE and
    APGD.
    """

    def direction(self, threat: Ball, grad: Inputs) -> Inputs:
        return dense_steepest(threat, grad)
