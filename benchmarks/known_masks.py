"""The robust accuracy of masked models under attacks that know the mask: the truth for surrogate gradients.

robench's own attacks search a stand-in for the masked model (`robench.testing.masked.stand_in`); the referee verifies
on the masked model, as in `robench evaluate`. If a mask changes every pixel independently, intervals of pixels give a
lower bound on the robust accuracy in an l_inf ball; if the model inside is linear, it is exact.
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
STOCHASTIC = (  # smaller budgets: every step is an average, and no search ends at its first find
    "pgd(steps=50, random_start=False)",
    "apgd(loss='margin', steps=50, restarts=2)",
    "apgd(loss='dlr', steps=50, targets=3)",
)
EOT = 2  # for stand-ins that average themselves: above 1, a search continues after its first find, for a safer one


def evaluate_known_mask(name: str, base: nn.Module, data: str, threat: str, examples: int | str) -> Summary:
    """The result of attacking the masked model with knowledge of its mask; every adversarial example is verified."""
    known = stand_in(name, base)
    attacks = STOCHASTIC if isinstance(known, Averaged) else ATTACKS
    request = EvalRequest(data=data, threats=(threat,), attacks=attacks, examples=str(examples))
    split, protocol = choose(request)
    searched = source_of(known).load(split).classifier
    judged = Referee(source_of(masked(name, base)).load(split).classifier)
    prepared = PreparedEvaluation.of(request, split, replace(protocol, eot=EOT), searched, judged)
    return prepared.answer().summary


def standing_exactly(mask: nn.Module, data: str, radius: float, examples: int | str) -> int:
    """The exact number of these images that cannot be broken within the l_inf radius; the model inside must be linear.

    The mask must be a non-decreasing function of each pixel: then a difference of two logits is a sum over pixels,
    each with its extremum at an end of its interval.
    """
    linear = [layer for layer in mask.modules() if isinstance(layer, nn.Linear)]
    assert len(linear) == 1, "a linear model has one layer"
    low, high, y = _ends(mask, data, radius, examples)
    return _above_all(linear[0], low.flatten(1), high.flatten(1), y)


def standing_bound(mask: Wrapped, data: str, radius: float, examples: int | str) -> int:
    """A lower bound on the number of images that cannot be broken, for a mask around a `DigitsCNN`.

    Interval bound propagation, Gowal et al. 2018, https://arxiv.org/abs/1810.12715
    """
    net = mask.base
    assert isinstance(net, DigitsCNN), "intervals are propagated through the layers of DigitsCNN"
    low, high, y = _ends(mask, data, radius, examples)
    for layer in (net.conv1, net.conv2, net.conv3):
        low, high = _through(layer, low, high)
    low, high = _through(net.fc1, low.flatten(1), high.flatten(1))
    return _above_all(net.fc2, low, high, y)


def _ends(mask: nn.Module, data: str, radius: float, examples: int | str) -> tuple[Tensor, Tensor, Tensor]:
    """The lower and upper bound of each pixel that reaches the model inside, and the labels."""
    split, _ = choose(EvalRequest(data=data, examples=str(examples)))
    before = mask.before if isinstance(mask, Wrapped) else nn.Identity()
    low, high = (before((split.x + step).clamp(0, 1)).double() for step in (-radius, radius))
    return low, high, split.y


@torch.no_grad()
def _through(layer: nn.Module, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The interval of every unit after a layer and a ReLU."""
    layer = copy.deepcopy(layer).double()
    middle = layer((low + high) / 2)
    assert isinstance(layer.weight, Tensor), "a layer of weights"
    layer.weight.abs_()
    reach = layer((high - low) / 2) - layer(torch.zeros_like(low))
    return (middle - reach).relu(), (middle + reach).relu()


@torch.no_grad()
def _above_all(last: nn.Linear, low: Tensor, high: Tensor, y: Tensor) -> int:
    """The number of images whose correct logit is the largest for all values of the units in their intervals."""
    weight, bias = last.weight.double(), last.bias.double()
    towards = weight[None] - weight[y][:, None]  # example, class, unit
    harm = torch.maximum(towards * low[:, None], towards * high[:, None]).sum(dim=2)
    gap = harm + bias[None] - bias[y][:, None]
    return int((gap.scatter(1, y[:, None], -torch.inf) < 0).all(dim=1).sum())
