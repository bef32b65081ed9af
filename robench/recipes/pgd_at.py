"""Adversarial training with PGD, Madry et al. 2018. https://arxiv.org/abs/1706.06083

robench train pgd_at --data mnist --threat linf:0.3 --out mnist-adv-linf
"""

from dataclasses import dataclass
from typing import ClassVar

from ..search.attacks.pgd import PGD
from .adversarial import AdversarialTraining, Lesson, Outcome, learnt


@dataclass(frozen=True)
class PGDAdversarialTraining(AdversarialTraining):
    """Trains on what PGD makes of each batch."""

    name: ClassVar[str] = "pgd_at"
    source: ClassVar[str] = "PGD adversarial training, Madry et al. 2018, https://arxiv.org/abs/1706.06083"
    attacked: ClassVar[tuple[str, ...]] = PGD.threats
    several: ClassVar[bool] = False

    def lesson(self, lesson: Lesson) -> Outcome:
        (threat,) = lesson.threats
        return learnt(lesson.module, self.images(lesson, threat), lesson.batch.y)
