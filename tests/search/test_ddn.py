"""DDN against linear models, whose exact distances inside the box are known in closed form."""

import pytest
import torch

from robench.errors import UserError
from robench.problem.losses import cross_entropy
from robench.problem.threats import parse
from robench.search.attack import Batch, differentiate
from robench.search.attacks.ddn import DDN, log_odds
from robench.search.attacks.fading import fading

from ..exact_distances import Linear, classifier, toy
from .nearest import N, asked_about, check_distances, check_independence_of_the_batch, edgy, linear_models

FAST = DDN(steps=100)
L2 = parse("l2:1")


@pytest.mark.costly
@linear_models
def test_the_smallest_delta_is_as_long_as_the_distance(module, classes, shape):
    check_distances(DDN(steps=100, targets=classes - 1 if classes > 2 else 0), "l2", module, classes, shape, 1.05)


@pytest.mark.costly
def test_an_example_has_the_same_result_in_any_batch():
    check_independence_of_the_batch(DDN(steps=80), "l2")


def test_the_norm_shrinks_after_a_find_and_else_grows_and_holds_after_the_box_has_cut():
    model = classifier(Linear(3), 3)
    x, y = edgy(model)
    batch, attack = Batch(x, y, y, torch.arange(len(x))), FAST
    state = attack.start(L2, batch)
    for move in range(40):
        seen = differentiate(model, attack.objective, x + state.delta, y, y)
        fooled = seen.logits.argmax(dim=1) != y
        before, state = state.norm, attack.step(L2, batch, state, seen)
        gamma = fading(torch.tensor([move / attack.steps]), attack.gamma, 0.001)
        torch.testing.assert_close(state.norm, torch.where(fooled, (1 - gamma) * before, (1 + gamma) * before))
        torch.testing.assert_close(L2.size(state.delta), state.norm, rtol=1e-4, atol=1e-5)
        assert ((x + state.delta >= 0) & (x + state.delta <= 1)).all()


def test_the_loss_points_as_the_cross_entropy_does_and_does_not_die_out():
    y = torch.tensor([0, 1, 2])
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, -1.0, 4.0], [-7.0, -7.0, -9.0]], requires_grad=True)
    (wanted,) = torch.autograd.grad(cross_entropy(logits, y, y).sum(), logits)
    (got,) = torch.autograd.grad(log_odds(logits, y, y).sum(), logits)
    torch.testing.assert_close(got / got.norm(dim=1, keepdim=True), wanted / wanted.norm(dim=1, keepdim=True))
    sure = torch.tensor([[1e4, 0.0, -5.0]], requires_grad=True)
    (died,) = torch.autograd.grad(cross_entropy(sure, y[:1], y[:1]).sum(), sure)
    (lives,) = torch.autograd.grad(log_odds(sure, y[:1], y[:1]).sum(), sure)
    assert died.abs().max() == 0
    assert lives.abs().max() == 1


def test_where_nothing_fools_it_queries_images_to_the_end_and_finds_nothing():
    module = Linear(2)
    with torch.no_grad():
        module.bias[0] += 1e3
    x = toy(classifier(module), N).x
    y = torch.zeros(N, dtype=torch.long)
    asked = asked_about(classifier(module), FAST, L2, x, y, y)
    assert ((x + asked >= 0) & (x + asked <= 1)).all()


@pytest.mark.parametrize("settings", [{"init_norm": 0.0}, {"gamma": 1.0}, {"gamma": 0.0}, {"step_size": 0.0}])
def test_numbers_that_make_no_search_are_refused(settings):
    with pytest.raises(UserError, match="ddn cannot take"):
        DDN(**settings)
