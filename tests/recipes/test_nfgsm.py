"""N-FGSM: noise, one step and no projection onto the ball, worked out by hand."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from robench.errors import UserError
from robench.problem.noise import normal
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.recipes import configure
from robench.recipes.adversarial import losses

from .test_recipes import blobs, linear, mlp, training_step

W = torch.cat([torch.full((8,), 1.0), torch.full((8,), -3.0), torch.zeros(48)])
GREY = Split.whole("grey", torch.full((5, 1, 8, 8), 0.5), torch.ones(5, dtype=torch.long), 2)


@pytest.mark.parametrize(("k", "alpha"), [(2.0, 1.0), (1.0, 1.25)])
@pytest.mark.parametrize("text", ["linf:0.05", "l2:0.1", "l1:0.5"])
def test_the_image_is_noise_of_twice_the_radius_and_a_step_of_the_radius(text, k, alpha):
    now, threat = training_step(linear(W), GREY, (text,)), parse(text)
    recipe = configure("nfgsm", "grey", {} if k == 2 else {"noise": k, "step_size": alpha})
    larger = replace(threat, radius=threat.radius * Fraction(k))
    noise = larger.sample(GREY.x, normal(now.batch.keys, 0, GREY.x))
    assert (larger.size(noise) <= larger.r * 1.0001).all()
    assert (larger.size(noise) > 0.9 * larger.r).all()
    r = threat.r * alpha
    ascent = -W.view(1, 8, 8)  # of the loss of class 1
    if text.startswith("linf"):
        step = r * ascent.sign()
    elif text.startswith("l2"):
        step = r * ascent / ascent.norm()
    else:  # r times (1, 3) / 80**0.5, less the threshold at which the sum is r: the smaller ones vanish
        step = torch.where(ascent == 3, r / 8, torch.zeros(()))
    torch.testing.assert_close(recipe.stepped(now, now.threats[0]), GREY.x + noise + step, atol=1e-6, rtol=1e-5)


def test_under_l1_a_euclidean_step_moves_many_pixels_and_has_the_absolute_sum_of_the_radius():
    module, split = mlp().eval(), blobs(32)
    now = training_step(module, split, ("l1:1",))
    stepped = configure("nfgsm", "blobs", {"noise": 0}).stepped(now, now.threats[0])
    moved = (stepped - split.x).flatten(1)
    torch.testing.assert_close(moved.abs().sum(dim=1), torch.ones(32))
    assert ((moved != 0).sum(dim=1) > 6).all()


def test_the_images_stay_in_the_box_and_spend_no_step_beyond_it():
    white = Split.whole("white", torch.ones(5, 1, 8, 8), torch.zeros(5, dtype=torch.long), 2)
    now = training_step(linear(W), white, ("l2:0.5",))  # the loss of class 0 rises with W
    stepped = configure("nfgsm", "white", {"noise": 0}).stepped(now, now.threats[0])
    assert (stepped <= 1).all()
    down = torch.where(W < 0, 0.5 / 8**0.5, 0.0).view(1, 8, 8)
    torch.testing.assert_close(stepped, white.x - down)


@pytest.mark.parametrize(("noise", "place"), [(0.2, 0), (0.4, 1), (0.9, 2)])
def test_several_threats_take_turns(noise, place):
    module, split = mlp(), blobs(32)
    now = training_step(module, split, ("linf:0.05", "l2:0.6", "l1:2"), noise)
    recipe = configure("nfgsm", "blobs", {})
    alone = losses(module.eval(), recipe.stepped(now, now.threats[place]), split.y).mean()
    torch.testing.assert_close(recipe.train_step(now).loss.detach(), alone)


def test_held_out_images_are_attacked_by_ten_steps_inside_the_ball():
    module, split = mlp().eval(), blobs(32)
    now = training_step(module, split, ("linf:0.05",))
    many = configure("pgd_at", "blobs", {"inner_steps": 10, "inner_step_size": 0.25}).images(now, now.threats[0])
    assert torch.equal(configure("nfgsm", "blobs", {}).images(now, now.threats[0]), many)


@pytest.mark.parametrize(
    ("texts", "message"), [([], "give it one"), (["rt:1px,5deg"], "cannot train"), (["l2:1", "l0:3"], "cannot train")]
)
def test_threats_that_it_cannot_train_against_are_refused(texts, message):
    with pytest.raises(UserError, match=message):
        configure("nfgsm", "mnist", {}).check(tuple(map(parse, texts)))


def test_inner_steps_are_no_setting_of_a_single_step():
    with pytest.raises(UserError, match="no setting of nfgsm is called 'inner_steps'"):
        configure("nfgsm", "mnist", {"inner_steps": 3})
