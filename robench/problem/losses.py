"""Losses that gradient attacks maximise: one number per row; higher means closer to misclassification."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .shapes import Labels, Logits, PerExample

Loss = Callable[[Logits, Labels, Labels], PerExample]
"""Logits, the correct labels, and the target classes; an untargeted loss ignores the last."""

_NO_SPREAD = 1e-12  # keeps a ratio finite if all logits in its denominator are equal


def misclassified(logits: Float[Tensor, "*#B K"], y: Int[Tensor, "*#B"]) -> Bool[Tensor, "..."]:
    """True where the highest logit is not that of the label. A row with a NaN is no answer: False."""
    return (logits.argmax(dim=-1) != y) & ~logits.isnan().any(dim=-1)


def cross_entropy(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """Minus the log-probability of the correct class."""
    return F.cross_entropy(logits, y, reduction="none")


def cross_entropy_targeted(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """The log-probability of the target class."""
    return -F.cross_entropy(logits, target, reduction="none")


def margin(logits: Logits, y: Labels, target: Labels | None = None) -> PerExample:
    """The highest wrong logit minus the correct one: positive exactly if the input is misclassified.

    Carlini and Wagner 2017, f6 with its sign turned. https://arxiv.org/abs/1608.04644
    """
    correct = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    return wrong - correct


def margin_targeted(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """The target's logit minus the correct one."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def dlr(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """The margin over the gap between the highest and the third-highest logit.

    Croce and Hein 2020, equation 6: neither shift nor scale of the logits changes it.
    https://arxiv.org/abs/2003.01690. With two classes there is no third logit, and division by the
    remaining gap would give a constant: the loss is then the margin itself.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + _NO_SPREAD)


def dlr_targeted(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """The target's logit minus the correct one, over the gap between the highest and the mean of ranks 3 and 4.

    Croce and Hein 2020, equation 7. With three classes only rank 3 is used; with two the loss is the plain difference.
    """
    difference = margin_targeted(logits, y, target)
    if logits.shape[1] < 3:
        return difference
    top = logits.topk(min(4, logits.shape[1]), dim=1).values
    return difference / (top[:, 0] - top[:, 2:].mean(dim=1) + _NO_SPREAD)


def probability_margin(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """log(1 + p_k - p_y), where p are the probabilities and k is the likeliest wrong class: see `_log_one_plus`.

    The probability margin of Xie et al. 2024, https://arxiv.org/abs/2411.15210. Positive exactly if misclassified.
    """
    return _log_one_plus(logits, y, logits.scatter(1, y[:, None], -torch.inf).argmax(dim=1))


def probability_margin_targeted(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """log(1 + p_t - p_y), where t is the target class."""
    return _log_one_plus(logits, y, target)


def _log_one_plus(logits: Logits, y: Labels, k: Labels) -> PerExample:
    """The logarithm of 1 + p_k - p_y, from -inf to log 2.

    It rises with p_k - p_y, so the ascent direction is the same. But the difference of the probabilities of a confident
    model is -1 in float32, with gradient 0. 1 + p_k - p_y is the sum of all wrong probabilities with p_k counted twice,
    whose logarithm is a difference of two sums of exponentials, and never underflows.
    """
    from_correct = logits - logits.gather(1, y[:, None])  # small where it matters: large logits lose digits
    wrong = from_correct.scatter(1, y[:, None], -torch.inf)
    twice = torch.cat([wrong, wrong.gather(1, k[:, None])], dim=1)
    return twice.logsumexp(dim=1) - from_correct.logsumexp(dim=1)


LossName = Literal["cross-entropy", "margin", "dlr", "probability-margin"]

UNTARGETED: dict[str, Loss] = {
    "cross-entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "probability-margin": probability_margin,
}
TARGETED: dict[str, Loss] = {
    "cross-entropy": cross_entropy_targeted,
    "margin": margin_targeted,
    "dlr": dlr_targeted,
    "probability-margin": probability_margin_targeted,
}
