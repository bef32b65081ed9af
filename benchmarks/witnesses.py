"""Adversarial examples of a masked model, made by somebody who knows the mask: what remedies should find unaided.

The search is robench's own, of a stand-in for the masked model (`robench.testing.masked.stand_in`); the referee asks
the masked model, as `robench evaluate` does. Where a mask moves every pixel by itself and the model inside is linear,
the worst image in an l_inf ball is known exactly.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from robench.api import Answer, Ask, choose, classifier_of, evaluation
from robench.evidence.referee import Referee
from robench.evidence.store import RunFile
from robench.results.summary import Summary
from robench.testing.masked import Averaged, Wrapped, masked, stand_in

ATTACKS = (
    "pgd(steps=100, random_start=False)",
    "apgd(loss='margin', restarts=5)",
    "apgd(loss='dlr', targets=9)",
    "pgd(steps=200, step_size=0.02, restarts=3)",
)
AT_RANDOM = (  # dearer: every step is an average, and no search ends at its first find
    "pgd(steps=50, random_start=False)",
    "apgd(loss='margin', steps=50, restarts=2)",
    "apgd(loss='dlr', steps=50, targets=3)",
)
EOT = 2  # of stand-ins that average themselves: beyond 1 a search goes on after its first find, for a surer one


def witnessed(name: str, base: nn.Module, data: str, threat: str, examples: int | str) -> Summary:
    """What the masked model keeps when its mask is known: one witness, verified, for every image that is broken."""
    known = stand_in(name, base)
    attacks = AT_RANDOM if isinstance(known, Averaged) else ATTACKS
    ask = Ask(data=data, threats=(threat,), attacks=attacks, examples=str(examples))
    split, protocol = choose(ask, None, None)
    searched = classifier_of(known, split)
    judged = Referee(classifier_of(masked(name, base), split))
    with RunFile.in_memory() as run:
        asked = evaluation(ask, replace(protocol, eot=EOT), split, searched, judged, run, {})
        asked.answer()
        return Answer.of(asked).summary


def standing_exactly(mask: nn.Module, data: str, radius: float, examples: int | str) -> int:
    """Of these images, how many no image within the radius in l_inf breaks; the model inside must be linear.

    The mask must move every pixel by itself, and never down as it goes up: then a difference of two logits is a sum
    over pixels, each at its most harmful at an end of its interval.
    """
    split, _ = choose(Ask(data=data, examples=str(examples)), None, None)
    before = mask.before if isinstance(mask, Wrapped) else torch.nn.Identity()
    linear = [layer for layer in mask.modules() if isinstance(layer, nn.Linear)]
    assert len(linear) == 1, "a linear model has one layer"
    low, high = (before((split.x + step).clamp(0, 1)).flatten(1) for step in (-radius, radius))
    weight, bias = linear[0].weight.detach().double(), linear[0].bias.detach().double()
    towards = weight[None] - weight[split.y][:, None]  # example, class, pixel
    harm = torch.maximum(towards * low[:, None].double(), towards * high[:, None].double()).sum(dim=2)
    gap: Tensor = harm + bias[None] - bias[split.y][:, None]
    return int((gap.scatter(1, split.y[:, None], -torch.inf) < 0).all(dim=1).sum())
