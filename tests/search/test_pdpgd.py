"""PDPGD against linear models, whose exact distances inside the box are known in closed form."""

import math

import pytest
import torch

from robench.errors import UserError
from robench.problem.threats import parse
from robench.search.attack import Batch, Seen
from robench.search.attacks.pdpgd import PDPGD

from ..exact_distances import Linear, classifier
from .nearest import asked_about, check_distances, check_independence_of_the_batch, edgy, linear_models

NORMS = ["linf", "l2", "l1"]


@pytest.mark.costly
@pytest.mark.parametrize("norm", NORMS)
@linear_models
def test_the_smallest_delta_is_as_large_as_the_distance(norm, module, classes, shape):
    attack = PDPGD(steps=200, targets=classes - 1 if classes > 2 else 0)
    check_distances(attack, norm, module, classes, shape, {"linf": 1.1, "l2": 1.1, "l1": 1.25}[norm])


@pytest.mark.costly
@pytest.mark.parametrize("norm", NORMS)
def test_an_example_has_the_same_result_in_any_batch(norm):
    check_independence_of_the_batch(PDPGD(steps=150), norm)


@pytest.mark.parametrize("norm", NORMS)
def test_every_query_lies_in_the_box(norm):
    model = classifier(Linear(3, (3, 4, 5)), 3, (3, 4, 5))
    x, y = edgy(model)
    asked = asked_about(model, PDPGD(steps=60), parse(f"{norm}:1"), x, y, y)
    assert ((x + asked >= -1e-7) & (x + asked <= 1 + 1e-7)).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_the_logits_does_not_matter(norm, scale):
    module = Linear(3)
    model, scaled = classifier(module, 3), classifier(lambda_net(module, scale), 3)
    x, y = edgy(model)
    threat, attack = parse(f"{norm}:1"), PDPGD(steps=30)
    torch.testing.assert_close(
        asked_about(scaled, attack, threat, x, y, y), asked_about(model, attack, threat, x, y, y), atol=1e-3, rtol=0
    )


def lambda_net(module, scale):
    class Scaled(torch.nn.Module):
        def forward(self, x):
            return scale * module(x)

    return Scaled()


@pytest.mark.parametrize(("third", "fooled"), [(-1.0, True), (2.0, False), (torch.nan, False)])
def test_the_multiplier_of_the_norm_grows_after_a_find_and_falls_otherwise(third, fooled):
    """Logits with a NaN are no find, though another class than the label has the highest of the others."""
    attack, threat, x = PDPGD(steps=100), parse("l2:1"), torch.full((1, 1, 2, 2), 0.5)
    batch = Batch(x, torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    state = attack.start(threat, batch)
    assert state.dual.item() == pytest.approx(math.log(1e4))
    logits = torch.tensor([[0.0, 1.0, third]]) if third != 2.0 else torch.tensor([[1.0, 0.0, -1.0]])
    after = attack.step(threat, batch, state, Seen(logits, logits[:, 1] - logits[:, 0], torch.ones_like(x)))
    assert (after.share > state.share).item() is fooled
    assert (after.dual - state.dual).item() == pytest.approx(-0.1 if fooled else 0.1, rel=1e-4)


def test_its_first_step_by_hand():
    """One pixel: Adam's first step has length 1, the box cuts it at 0.5, and the norm takes its share back."""
    attack, threat, x = PDPGD(steps=100, norm_weight=0.1), parse("l1:1"), torch.full((1, 1, 1, 1), 0.5)
    batch = Batch(x, torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    seen = Seen(torch.tensor([[1.0, 0.0]]), torch.tensor([-1.0]), torch.full_like(x, 3.0))
    after = attack.step(threat, batch, attack.start(threat, batch), seen)
    assert after.delta.item() == pytest.approx(0.5 - 0.1, abs=1e-6)


@pytest.mark.parametrize("settings", [{"norm_weight": 0.0}, {"step_size": 0.0}, {"dual_step": 0.0}, {"steps": 0}])
def test_numbers_that_make_no_search_are_refused(settings):
    with pytest.raises(UserError, match="pdpgd cannot take"):
        PDPGD(**settings)
