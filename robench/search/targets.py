"""The wrong classes that a targeted attack aims at: by their clean logits, or by first-order distance.

First-order: the model is linearised at the image. Class k then has a decision boundary with the correct class y, a
hyperplane, whose distance inside the box has a closed form for every ball (`Ball.to_hyperplane`). The nearest comes
first. Melamed et al. 2024 (MALT), https://arxiv.org/abs/2407.02240, rank by the same distance without a
box: the difference of the logits over the dual norm of its gradient.
"""

import torch
from jaxtyping import Int

from ..errors import UserError
from ..problem.classifier import Classifier, arithmetic
from ..problem.losses import margin_targeted
from ..problem.shapes import Inputs, Labels, Logits, PerExample
from ..problem.threats import Ball, ThreatModel, room
from .attack import AnyAttack, ForeignAttack, differentiate_each

Classes = Int[torch.Tensor, "B N"]

CANDIDATES = 100  # wrong classes of the highest logits whose distances are estimated, as MALT does with 1000 classes
ROWS = 16  # images: every batch is filled up to it, so that an image has the same order in any batch


def is_first_order(attack: AnyAttack) -> bool:
    """Whether the attack orders its target classes by first-order distance."""
    return not isinstance(attack, ForeignAttack) and attack.target_order == "first-order"


def refuse_unfit(attack: AnyAttack, threat: ThreatModel) -> None:
    """Raises UserError where classes cannot be ordered under a threat as the attack requests it."""
    if is_first_order(attack) and not isinstance(threat, Ball):
        raise UserError(
            f"{attack.name} cannot take target_order='first-order' under {threat}, which is no ball: no first-order"
            " distance is known there; leave target_order out"
        )


def gradients(attack: AnyAttack, classes: int) -> int:
    """The number of gradients per example that the order of its target classes costs."""
    return min(classes - 1, max(attack.targets, CANDIDATES)) if is_first_order(attack) else 0


def by_logits(logits: Logits, y: Labels, n: int) -> Classes:
    """The n wrong classes of the highest logits, highest first; all where there are fewer."""
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    return wrong.topk(min(n, logits.shape[1] - 1), dim=1).indices


def by_first_order(classifier: Classifier, threat: Ball, x: Inputs, y: Labels, logits: Logits, n: int) -> Classes:
    """The n nearest wrong classes to first order, nearest first, of at most `ROWS` images with these clean logits.

    Classes at the same distance (a number of pixels, or out of reach) follow in the order of the share of the
    difference that the threat's radius leaves, then in that of their logits.
    """
    assert len(x) <= ROWS, "more images than a batch holds"
    candidates = by_logits(logits, y, max(n, CANDIDATES))
    filled = torch.arange(ROWS).clamp(max=len(x) - 1)
    images, labels = x[filled].to(classifier.device), y[filled].to(classifier.device)
    found = []
    aims = candidates[filled].to(classifier.device).unbind(1)
    with arithmetic(classifier.device):
        for seen in differentiate_each(classifier, margin_targeted, images, labels, aims):
            found.append([value[: len(x)].cpu() for value in estimates(threat, images, seen.grad, seen.loss)])
    distance, need = (torch.stack(values, dim=1) for values in zip(*found, strict=True))
    first = need.argsort(dim=1, stable=True)
    first = first.gather(1, distance.gather(1, first).argsort(dim=1, stable=True))
    return candidates.gather(1, first)[:, :n]


def estimates(threat: Ball, x: Inputs, grad: Inputs, margin: PerExample) -> tuple[PerExample, PerExample]:
    """The distance of the linearised boundary inside the box, and the difference over its largest gain in the ball.

    `margin` is the logit of the class less the correct one, and `grad` its gradient. The second is at most 1 exactly
    where the first is at most the radius. Both are infinite where the gradient is no number, or leads nowhere.
    """
    gap = (-margin).clamp(min=0)
    whole = _dot(grad.abs(), room(grad, x))
    distance = threat.size(threat.to_hyperplane(x, grad, -gap))
    need = gap / _dot(grad, threat.vertex(grad, x))
    finite = whole.isfinite() & gap.isfinite()
    return distance.where(finite & (whole >= gap), torch.inf), need.where(finite & (whole > 0), torch.inf)


def _dot(a: Inputs, b: Inputs) -> PerExample:
    return (a * b).flatten(1).double().sum(dim=1)
