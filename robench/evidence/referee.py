"""Checks claims. Imports nothing from search/, so a bug there cannot vouch for itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..problem.classifier import Classifier, arithmetic
from ..problem.losses import margin
from ..problem.shapes import Inputs, Labels, Logits
from ..problem.threats import ThreatModel, in_box
from ..problem.threats.base import Witness
from .records import Rejection

BATCH = 16  # of the referee's own: every batch is filled up to it, so an image meets the same arithmetic always


@dataclass(frozen=True)
class Ruling:
    """What the referee says of one image under one threat."""

    accepted: bool
    rejection: Rejection
    reason: str
    size: float
    margin: float


class Referee:
    """Looks at images itself, with weights of its own in full float32, and never repairs what it is shown."""

    def __init__(self, classifier: Classifier):
        self.classifier = classifier

    def logits(self, x: Inputs) -> Logits:
        """The model's answer in full precision, in batches of one size."""
        answers = []
        with torch.no_grad(), arithmetic(self.classifier.device):
            for rows in torch.split(x, BATCH):
                filled = torch.cat([rows, rows[:1].expand(BATCH - len(rows), *rows.shape[1:])])
                answers.append(self.classifier(filled.to(self.classifier.device))[: len(rows)].float().cpu())
        return torch.cat(answers) if answers else x.new_zeros(0, self.classifier.classes)

    def judge(
        self, threat: ThreatModel, x: Inputs, y: Labels, x_adv: Inputs, witness: Witness | None = None
    ) -> list[Ruling]:
        """One ruling per row: is x_adv finite, in the box, in the threat set of x, and misclassified?"""
        return self.rule(threat, x, y, x_adv, self.logits(x_adv), witness)

    def rule(
        self,
        threat: ThreatModel,
        x: Inputs,
        y: Labels,
        x_adv: Inputs,
        logits: Logits,
        witness: Witness | None = None,
    ) -> list[Ruling]:
        """The same, when the logits of x_adv are known already: they do not depend on the threat."""
        answers = zip(
            x_adv.isfinite().flatten(1).all(dim=1).tolist(),
            in_box(x_adv).tolist(),
            threat.contains(x_adv, x, witness).tolist(),
            threat.measure(x_adv, x, witness).tolist(),
            margin(logits, y).tolist(),
            fooled(logits, y).tolist(),
            strict=True,
        )
        return [_ruling(threat, *answer) for answer in answers]


def fooled(logits: Logits, y: Labels) -> Tensor:
    """Where argmax is not the label. NaN logits are no answer, so they fool nobody."""
    return (logits.argmax(dim=1) != y) & ~logits.isnan().any(dim=1)


def _ruling(
    threat: ThreatModel, finite: bool, boxed: bool, inside: bool, size: float, gap: float, fools: bool
) -> Ruling:
    rejection: Rejection
    if not finite:
        rejection, reason = "not finite", "has pixels that are not finite"
    elif not boxed:
        rejection, reason = "outside the box", "leaves the pixel range [0, 1]"
    elif not inside:
        rejection = "outside"
        reason = f"lies at {size:.6g}, outside {threat}" if size < torch.inf else f"is not in {threat}"
    elif gap != gap:
        rejection, reason = "not finite", "makes the model answer NaN, which is no answer"
    elif not fools:
        rejection, reason = "does not fool", f"does not fool the model: margin {gap:.3g}"
    else:
        rejection, reason = "", ""
    return Ruling(not rejection, rejection, reason, size, gap)
