"""The suite of AutoAttack: its budgets are the official ones, and it works with any number of classes."""

import pytest
import torch

import robench
from robench import protocols
from robench.errors import UserError
from robench.problem.split import Split
from robench.protocols.cost import Cost, of_protocol

from .exact_distances import Linear, fraction

pytestmark = pytest.mark.precision
SHAPE = (1, 4, 5)
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


def to_nearest_boundary(module, image, y, dual):
    """The distance to the nearest other class where the box is far away."""
    with torch.no_grad():
        gaps = module(image[None])[0, y] - module(image[None])[0]
        sizes = (module.weight - module.weight[y]).norm(p=dual, dim=1)
    return (gaps / sizes)[torch.arange(len(gaps)) != y].min().item()


@pytest.mark.costly
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("classes", [2, 3, 5, 1000])
def test_it_breaks_linear_models_of_any_number_of_classes_well_beyond_their_distance(classes, norm):
    module = Linear(classes, SHAPE)
    x = 0.5 + 0.2 * (torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(2)) - 0.5)
    split = Split.whole("toy:test", x, module(x).detach().argmax(dim=1), classes)
    farthest = max(to_nearest_boundary(module, image, y, DUAL[norm]) for image, y in zip(x, split.y, strict=True))
    summary = robench.evaluate(
        module, split, "standard", threats=[f"{norm}:{fraction(2 * farthest)}"], attacks=["autoattack"]
    )
    (threat,) = summary.threats
    assert (threat.broken, threat.open, threat.failures) == (6, 0, ())
    assert [a.name for a in threat.attacks] == ["apgd-ce", "apgd-t", "fab-t", "square"]


def test_its_budgets_are_the_official_ones():
    ask = protocols.load("standard", "cifar10").with_threats(["linf:8/255", "l1:12"]).with_attacks(["autoattack"])
    linf, l1 = (
        {a.label: (a.attack.spec.partition("(")[0], a.restarts, a.attack.targets, a.attack.steps) for a in t.attacks}
        for t in ask.threats
    )
    assert linf == {
        "apgd-ce": ("apgd", 1, 0, 100),
        "apgd-t": ("apgd", 1, 9, 100),
        "fab-t": ("fab", 1, 9, 100),
        "square": ("square", 1, 0, 5000),
    }
    assert l1 == linf | {"apgd-ce": ("apgd", 5, 0, 100), "apgd-t": ("apgd", 1, 5, 100)}


def test_a_suite_takes_no_settings_and_attacks_what_its_parts_attack():
    protocol = protocols.load("standard", "mnist")
    with pytest.raises(UserError, match="autoattack is a suite and takes no settings, not steps"):
        protocol.with_attacks(["autoattack(steps=5)"])
    with pytest.raises(UserError, match="autoattack does not attack rt"):
        protocol.with_threats(["rt:3px,30deg"]).with_attacks(["autoattack"])


def test_the_cost_of_a_protocol_is_the_queries_for_a_standing_example():
    ask = protocols.load("standard", "mnist").with_threats(["linf:0.3", "rt:3px,30deg"])
    pure = ask.with_attacks(["pgd(steps=10, restarts=3)", "apgd(loss=dlr, targets=9, steps=20)", "grid"])
    assert of_protocol(pure, classes=10) == Cost(gradients=3 * 11 + 9 * 21, forwards=775)
    assert of_protocol(pure, classes=3) == Cost(gradients=3 * 11 + 2 * 21, forwards=775)
    assert str(of_protocol(pure, 3)) == "75 gradients and 775 forward passes"
