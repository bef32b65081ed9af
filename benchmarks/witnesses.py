"""Adversarial examples of a masked model, made by somebody who knows the mask: what remedies should find unaided.

The search is robench's own, of a stand-in for the masked model (`robench.testing.masked.stand_in`); the referee asks
the masked model, as `robench evaluate` does. Where a mask moves every pixel by itself, intervals of pixels bound from
below what stands in an l_inf ball; if the model inside is linear, exactly.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from robench.evaluation.model_source import source_of
from robench.evaluation.prepared import PreparedEvaluation
from robench.evaluation.request import EvalRequest, choose
from robench.evidence.referee import Referee
from robench.problem.architectures.digits_cnn import DigitsCNN
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
    ask = EvalRequest(data=data, threats=(threat,), attacks=attacks, examples=str(examples))
    split, protocol = choose(ask)
    searched = source_of(known).load(split).classifier
    judged = Referee(source_of(masked(name, base)).load(split).classifier)
    prepared = PreparedEvaluation.of(ask, split, replace(protocol, eot=EOT), searched, judged)
    return prepared.answer().summary


def standing_exactly(mask: nn.Module, data: str, radius: float, examples: int | str) -> int:
    """Of these images, how many no image within the radius in l_inf breaks; the model inside must be linear.

    The mask must move every pixel by itself, and never down as it goes up: then a difference of two logits is a sum
    over pixels, each at its most harmful at an end of its interval.
    """
    linear = [layer for layer in mask.modules() if isinstance(layer, nn.Linear)]
    assert len(linear) == 1, "a linear model has one layer"
    low, high, y = _ends(mask, data, radius, examples)
    return _above_all(linear[0], low.flatten(1), high.flatten(1), y)


def standing_surely(mask: Wrapped, data: str, radius: float, examples: int | str) -> int:
    """The same for a mask round a `DigitsCNN`, a lower bound: the intervals are carried from layer to layer.

    Interval bound propagation, Gowal et al. 2018, https://arxiv.org/abs/1810.12715
    """
    net = mask.base
    assert isinstance(net, DigitsCNN), "intervals are carried through the layers of DigitsCNN"
    low, high, y = _ends(mask, data, radius, examples)
    for layer in (net.conv1, net.conv2, net.conv3):
        low, high = _through(layer, low, high)
    low, high = _through(net.fc1, low.flatten(1), high.flatten(1))
    return _above_all(net.fc2, low, high, y)


def _ends(mask: nn.Module, data: str, radius: float, examples: int | str) -> tuple[Tensor, Tensor, Tensor]:
    """What the model inside is shown, pixel by pixel, at least and at most; and the labels."""
    split, _ = choose(EvalRequest(data=data, examples=str(examples)))
    before = mask.before if isinstance(mask, Wrapped) else nn.Identity()
    low, high = (before((split.x + step).clamp(0, 1)).double() for step in (-radius, radius))
    return low, high, split.y


@torch.no_grad()
def _through(layer: nn.Module, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The interval of every unit behind a layer and a ReLU."""
    layer = copy.deepcopy(layer).double()
    middle = layer((low + high) / 2)
    assert isinstance(layer.weight, Tensor), "a layer of weights"
    layer.weight.abs_()
    reach = layer((high - low) / 2) - layer(torch.zeros_like(low))
    return (middle - reach).relu(), (middle + reach).relu()


@torch.no_grad()
def _above_all(last: nn.Linear, low: Tensor, high: Tensor, y: Tensor) -> int:
    """How many have the logit of their label above all others, wherever in its interval each unit is."""
    weight, bias = last.weight.double(), last.bias.double()
    towards = weight[None] - weight[y][:, None]  # example, class, unit
    harm = torch.maximum(towards * low[:, None], towards * high[:, None]).sum(dim=2)
    gap = harm + bias[None] - bias[y][:, None]
    return int((gap.scatter(1, y[:, None], -torch.inf) < 0).all(dim=1).sum())
