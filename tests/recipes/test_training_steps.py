"""What one lesson of a recipe draws, asks, counts and goes down, worked out by hand."""

import dataclasses
import re

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.recipes import RECIPES, configure
from robench.recipes.adversarial import losses
from robench.search.attack import unroll
from robench.search.attacks import apgd_l1
from robench.search.attacks.pgd import PGD
from robench.search.attacks.slide import SLIDE

from .test_recipes import LEARNT, blobs, fast, mlp, plain, training_of, training_step

THREE = ("linf:0.05", "l2:0.3", "l1:1")
WEAK = ("linf:0.1", "l2:0.4", "l1:0.7")  # each fools `learning` on some images, and on fewer than half


@pytest.fixture(scope="module")
def learning(tmp_path_factory):
    """Of a training that was not long."""
    return plain(60, tmp_path_factory.mktemp("learning"))


def wrong(module, x, y):
    return (module(x).argmax(dim=1) != y).float().mean().item()


@pytest.mark.parametrize(("noise", "place"), [(0.23, 0), (0.25, 1), (0.68, 1), (0.7, 2)])
def test_adaptive_samples_by_remembered_errors_and_updates_them(learning, noise, place):
    now = training_step(learning, blobs(64), WEAK, noise)
    before = [0.2, 0.5, 0.3]  # so that the shares are 0.1 + 0.7 of that: 0.24, 0.45 and 0.31
    now.memory["errors"] = torch.tensor(before)
    recipe = configure("adaptive", "blobs", {"recent": 0.75, "least": 0.3})
    x_adv = recipe.images(now, now.threats[place])
    errors = wrong(learning, x_adv, now.batch.y)
    assert 0 < errors < 0.4, "not to be taken for the share that was right"
    outcome = recipe.train_step(now)
    torch.testing.assert_close(outcome.loss.detach(), losses(learning, x_adv, now.batch.y).mean())
    before[place] = 0.75 * before[place] + 0.25 * errors
    torch.testing.assert_close(now.memory["errors"], torch.tensor(before))


def test_adaptive_assumes_at_first_that_a_network_fails_everywhere(learning):
    now = training_step(learning, blobs(64), WEAK, noise=0.4)
    recipe = configure("adaptive", "blobs", {})
    errors = wrong(learning, recipe.images(now, now.threats[1]), now.batch.y)
    recipe.train_step(now)
    torch.testing.assert_close(now.memory["errors"], torch.tensor([1.0, 0.95 + 0.05 * errors, 1.0]))


@pytest.mark.parametrize(("noise", "place"), [(0.24, 0), (0.26, 1)])
def test_eat_samples_by_its_counts_and_counts_standing_examples(learning, noise, place):
    now = training_step(learning, blobs(64), ("linf:0.1", "l1:0.8"), noise)
    held, met = [70.0, 25.0], [80.0, 40.0]  # errors of 1/8 and 3/8: shares of 1/4 and 3/4
    now.memory.update(held=torch.tensor(held), met=torch.tensor(met))
    recipe = configure("eat", "blobs", {})
    x_adv, stood = recipe.ascend(now, place)
    assert 32 < stood.sum() < 64, "not to be taken for those that fell"
    outcome = recipe.train_step(now)
    torch.testing.assert_close(outcome.loss.detach(), losses(learning, x_adv, now.batch.y).mean())
    held[place] += int(stood.sum())
    met[place] += 64
    assert now.memory["held"].tolist() == held
    assert now.memory["met"].tolist() == met


def test_the_gradient_of_trades_goes_through_both_answers():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    split = blobs(16)
    now, beta = training_step(module, split, ("linf:0.1",)), 3.0
    recipe = configure("trades", "blobs", {"beta": beta})
    x, x_adv = split.x.flatten(1), recipe.neighbours(now).flatten(1)
    loss = recipe.train_step(now).loss
    (gradient,) = torch.autograd.grad(loss, module[1].weight)
    with torch.no_grad():
        p, q = module(split.x).softmax(dim=1), module(x_adv).softmax(dim=1)
        apart = (p / q).log()
        both = p * (apart - (p * apart).sum(dim=1, keepdim=True))  # of KL(p, q) by the logits of p; q - p by those of q
        of_clean = p - nn.functional.one_hot(split.y, 3) + beta * both
        by_hand = (of_clean.T @ x + beta * (q - p).T @ x_adv) / 16
        assert (beta * both.T @ x / 16).abs().max() > 1e-3, "the way through the clean answer matters"
    torch.testing.assert_close(gradient, by_hand, atol=1e-6, rtol=1e-4)


class Valley(nn.Module):
    """Of two classes the first loses the more, the nearer the mean pixel is to 0.6."""

    def forward(self, x):
        away = (x.flatten(1).mean(dim=1) - 0.6).abs()
        return torch.stack([10 * away, torch.zeros_like(away)], dim=1)


def test_msd_trains_on_the_highest_loss_and_not_on_the_last():
    split = Split.whole("grey", torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.long), 2)
    module = Valley()
    now = training_step(module, split, ("linf:0.3", "linf:0.001"))
    recipe = configure("msd", "grey", {"inner_steps": 2, "inner_step_size": 0.25})
    # Steps of 0.075: from 0.5 to 0.575, and over the valley to 0.65.
    torch.testing.assert_close(recipe.perturbation(now), torch.full_like(split.x, 0.075))
    torch.testing.assert_close(recipe.train_step(now).loss, torch.tensor(-10 * 0.025).exp().log1p())


def test_the_attack_of_a_training_is_pgd_and_under_l1_slide():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    split = Split.whole("noise", torch.rand(8, 1, 16, 16), torch.arange(8) % 3, 3)
    now = training_step(module, split, ("linf:0.1", "l2:0.5", "l1:3"))
    recipe = configure("sat", "noise", {"inner_steps": 4, "inner_step_size": 0.3})
    numbers = {"steps": 4, "step_size": 0.3, "loss": "cross-entropy"}
    for threat, attack in zip(now.threats, (PGD(**numbers), PGD(**numbers), SLIDE(**numbers)), strict=True):
        x_adv = split.x + unroll(module, threat, attack, now.batch).delta
        assert torch.equal(recipe.images(now, threat), x_adv), threat


USES_INNER_ATTACK = ("adaptive", "avg", "max", "mng_ac", "pgd_at", "sat", "sat_ac")


@pytest.mark.parametrize("name", USES_INNER_ATTACK)
def test_with_inner_attack_apgd_a_recipe_has_the_images_of_eat(learning, name):
    now = training_step(learning, blobs(64), WEAK)
    eat = configure("eat", "blobs", {"inner_steps": 6})
    recipe = configure(name, "blobs", {"inner_steps": 6, "inner_attack": "apgd"})
    for place, threat in enumerate(now.threats):
        assert torch.equal(recipe.images(now, threat), eat.ascend(now, place).x_adv), threat


def test_max_with_apgd_trains_on_the_worst_of_its_images(learning):
    now = training_step(learning, blobs(64), WEAK)
    eat = configure("eat", "blobs", {"inner_steps": 6})
    each = torch.stack([losses(learning, eat.ascend(now, place).x_adv, now.batch.y) for place in range(3)])
    loss = configure("max", "blobs", {"inner_steps": 6, "inner_attack": "apgd"}).train_step(now).loss
    torch.testing.assert_close(loss.detach(), each.amax(dim=0).mean())


def test_transforms_are_not_the_business_of_the_inner_attack():
    module, split = mlp(), blobs(12)
    now = training_step(module, split, ("rt:2px,20deg",))
    default, apgd = (configure("sat", "blobs", {"inner_attack": attack}) for attack in ("pgd", "apgd"))
    assert torch.equal(default.images(now, now.threats[0]), apgd.images(now, now.threats[0]))


@pytest.mark.parametrize(("place", "radii"), [(1, [3] * 4 + [2] * 4 + [1] * 5), (2, [3] * 4 + [2] * 4 + [1] * 5)])
def test_staged_apgd_shrinks_the_ball_under_l2_and_l1(learning, place, radii):
    now = training_step(learning, blobs(64), WEAK)
    threat, asked = now.threats[place], []
    handle = learning.register_forward_pre_hook(lambda m, args: asked.append(args[0].detach() - now.batch.x))
    x_adv = configure("sat", "blobs", {"inner_steps": 10, "inner_attack": "staged-apgd"}).images(now, threat)
    handle.remove()
    assert len(asked) == len(radii)
    assert not asked[0].any(), "it starts at the image itself"
    for delta, radius in zip(asked, radii, strict=True):
        assert (threat.size(delta) <= radius * threat.r * (1 + 1e-5)).all()
    assert (threat.size(asked[3]) > 2 * threat.r).any(), "beyond the ball"
    stages, best = (asked[:4], asked[4:8], asked[8:]), []
    for stage in stages:
        each = torch.stack([losses(learning, now.batch.x + delta, now.batch.y) for delta in stage])
        best.append(torch.stack(stage)[each.argmax(dim=0), torch.arange(64)])
    for top, entered, factor in ((best[0], stages[1][0], 2), (best[1], stages[2][0], 1)):
        ball = dataclasses.replace(threat, radius=factor * threat.radius)
        torch.testing.assert_close(entered, ball.project(top, now.batch.x))
    torch.testing.assert_close(x_adv, now.batch.x + best[2])


def test_a_later_stage_under_l1_moves_as_many_coordinates_as_the_evaluation_would(learning, monkeypatch):
    now = training_step(learning, blobs(64), WEAK)
    asked, shares = [], []
    signs = apgd_l1.largest_signs

    def recorded(grad, share):
        shares.append(share)
        return signs(grad, share)

    monkeypatch.setattr(apgd_l1, "largest_signs", recorded)
    handle = learning.register_forward_pre_hook(lambda m, args: asked.append(args[0].detach() - now.batch.x))
    configure("sat", "blobs", {"inner_steps": 10, "inner_attack": "staged-apgd"}).images(now, now.threats[2])
    handle.remove()
    assert (shares[0] == 0.05).all(), "of the coordinates at first"
    for entered in (4, 8):  # of the queries, those that start a stage
        support = (asked[entered] != 0).flatten(1).sum(dim=1)
        assert (support > 0).all()
        torch.testing.assert_close(shares[entered], support / (1.5 * 64))


def test_staged_apgd_under_linf_is_apgd(learning):
    now = training_step(learning, blobs(64), WEAK)
    plain, staged = (
        configure("sat", "blobs", {"inner_steps": 10, "inner_attack": attack}).images(now, now.threats[0])
        for attack in ("apgd", "staged-apgd")
    )
    assert torch.equal(plain, staged)


def test_stages_need_ten_steps():
    with pytest.raises(UserError, match="staged-apgd needs inner_steps=10 or more, not 9"):
        configure("max", "blobs", {"inner_attack": "staged-apgd", "inner_steps": 9})


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_with_an_attack_of_its_own_rejects_another(name):
    if name in USES_INNER_ATTACK:
        assert configure(name, "blobs", {"inner_attack": "apgd"}).inner_attack == "apgd"
        return
    for attack in ("apgd", "staged-apgd"):
        with pytest.raises(UserError, match="inner_attack"):
            configure(name, "blobs", {"inner_attack": attack})


@pytest.mark.parametrize("setting", [{"inner_step_size": 0.5}, {"l1_steps": "euclidean"}])
def test_a_setting_of_the_steps_beside_apgd_is_refused_as_it_has_no_effect(setting):
    ((name, value),) = setting.items()
    with pytest.raises(UserError, match=f"{name}={value} has no effect with inner_attack=apgd, which adapts its steps"):
        configure("max", "blobs", {"inner_attack": "apgd", **setting})


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_euclidean_steps_change_the_attack_of_a_recipe_or_are_refused(name, learning):
    if name not in {*USES_INNER_ATTACK, "msd", "rst", "trades"}:
        with pytest.raises(UserError, match="l1_steps"):
            configure(name, "blobs", {"l1_steps": "euclidean"})
        return
    sparse, euclidean = (configure(name, "blobs", {"l1_steps": steps}) for steps in ("sparse", "euclidean"))
    for place, changed in ((0, False), (1, False), (2, True)):
        now = training_step(learning, blobs(64), WEAK[place : place + 1])
        first, second = (recipe.train_step(now._replace(memory={})).loss.item() for recipe in (sparse, euclidean))
        assert (first != second) is changed, now.threats


def test_a_euclidean_step_is_the_length_of_the_step_along_the_gradient_projected_onto_the_l1_ball():
    """By hand: along (3, 4)/5 with length 2 to (1.2, 1.6), and 0.9 less of each for an absolute sum of 1."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    split = Split.whole("grey", torch.zeros(1, 1, 1, 2), torch.zeros(1, dtype=torch.long), 2)
    now = training_step(module, split, ("l1:1",))
    recipe = configure("msd", "grey", {"inner_steps": 1, "inner_step_size": 2.0, "l1_steps": "euclidean"})
    torch.testing.assert_close(recipe.perturbation(now), torch.tensor([[[[0.3, 0.7]]]]))
    sparse = dataclasses.replace(recipe, l1_steps="sparse")
    torch.testing.assert_close(sparse.perturbation(now), torch.tensor([[[[0.0, 1.0]]]]))


@pytest.mark.parametrize(
    ("name", "settings", "texts", "refusal"),
    [
        ("max", {"transforms": 7}, ("linf:0.1", "l1:1"), "transforms=7 has no effect without --threat rt"),
        ("sat", {"inner_attack": "apgd"}, ("rt:2px,20deg", "rt:1px,40deg"), "inner_attack=apgd has no effect under tr"),
        ("max", {"l1_steps": "euclidean"}, ("linf:0.1", "l2:1"), "l1_steps=euclidean has no effect without --threat"),
        ("avg", {"inner_steps": 7}, ("rt:2px,20deg", "rt-l2:2px,20deg+l2:0.3"), "inner_steps=7 has no effect under tr"),
        ("nfgsm", {"noise": 1e12}, ("linf:0.1",), "noise=1000000000000.0 radii of linf:0.1 is no size of a step"),
        ("nfgsm", {"step_size": 1e-13}, ("linf:0.1",), "step_size=1e-13 radii of linf:0.1 is no size of a step"),
    ],
)
def test_a_setting_without_effect_under_these_threats_is_refused(name, settings, texts, refusal):
    recipe = configure(name, "blobs", settings)
    with pytest.raises(UserError, match=re.escape(refusal)):
        recipe.check(tuple(map(parse, texts)))
    recipe.check(tuple(map(parse, ("rt:2px,20deg", "l2:1", "l1:5")))) if name != "nfgsm" else None


@pytest.mark.parametrize("text", ["rt:2px,20deg", "rt-l2:2px,20deg+l2:0.3"])
@pytest.mark.parametrize("settings", [{}, {"poses": 3}])
def test_training_uses_the_worst_of_as_many_transforms_as_the_recipe_sets(settings, text):
    module, split = mlp(), blobs(12)
    now, asked = training_step(module, split, (text,)), []
    handle = module.register_forward_pre_hook(lambda m, args: asked.append(args[0]))
    x_adv = configure("spatial_at", "blobs", settings).images(now, now.threats[0])
    handle.remove()
    transforms = settings.get("poses", 10)
    (candidates,) = (x.view(12, -1, 1, 8, 8) for x in asked)
    assert candidates.shape[1] == transforms
    assert all(len(of_one.unique(dim=0)) == transforms for of_one in candidates), "all different"
    each = torch.stack([losses(module, candidates[:, transform], split.y) for transform in range(transforms)])
    torch.testing.assert_close(losses(module, x_adv, split.y), each.amax(dim=0))
    if text.startswith("rt-l2"):
        assert parse("l2:0.3").contains(x_adv, split.x).all()


@pytest.mark.parametrize(("place", "text"), [*enumerate(THREE)])
def test_mng_ac_adds_the_divergence_among_clean_attacked_and_newly_noisy_images(place, text):
    module, split, seen = mlp(), blobs(32), []
    now = training_step(module, split, THREE, noise=(place + 0.5) / 3)
    handle = module.register_forward_pre_hook(lambda m, args: seen.append((m.training, args[0].detach())))
    # The generator hardly moves: the same draw would give the same noise again.
    loss = configure("mng_ac", "blobs", {"beta": 2.0, "alpha": 1e-6}).train_step(now).loss.detach()
    handle.remove()
    module.eval()
    trial, after, x, noisy, x_adv = (images for learning, images in seen if learning)
    assert torch.equal(x, split.x)
    assert torch.equal(after, x_adv)
    torch.testing.assert_close(x_adv, configure("sat", "blobs", {}).images(now, parse(text)))
    assert parse(text).contains(noisy, split.x).all()
    pair = torch.stack([(images - x).flatten(1) for images in (trial, noisy)])
    alike = (pair - pair.mean(dim=2, keepdim=True)).flatten(1).corrcoef()[0, 1]
    assert alike.abs() < 0.2, "noise of another draw"
    p = [module(images).detach().softmax(dim=1) for images in (x, noisy, x_adv)]
    middle = sum(p) / 3
    apart = sum((q * (q / middle).log()).sum(dim=1) for q in p).mean() / 3
    torch.testing.assert_close(loss, losses(module, x_adv, split.y).mean() + 2 * apart)


# Passes of a step in train mode: of what is learnt from, and of the adversary with two inner steps on request.
PASSES = {
    "nat": (1, 0),
    "pgd_at": (1, 2),
    "spatial_at": (1, 1),  # all poses at once
    "trades": (2, 1 + 2),  # images and neighbours; the answers to climb away from, and the climb
    "avg": (1, 3 * 2),  # one joint batch
    "max": (1, 3 * 2 + 1),  # to compare
    "msd": (1, 1 + 2 * (1 + 3)),  # the start; a gradient and three candidates in each step
    "sat": (1, 2),
    "sat_ac": (3, 2),
    "mng_ac": (3, 2),  # the trial leaves no trace
    "eat": (1, 2 + 1),
    "adaptive": (1, 2),
    "rst": (2, 1 + 2),
    "ant": (1, 0),
    "nfgsm": (1, 1),
    "ramp": (2, 2 * (2 + 1)),  # one batch for each threat
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_adversary_moves_batch_norm_statistics_on_request_alone(name, tmp_path):
    cross_entropy_step, attacked = PASSES[name]
    for train_mode in (False, True) if LEARNT[name] else (False,):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 2))
        asked = {"bn_train_attack": True} if train_mode else {}
        recipe = configure(name, "blobs", {"steps": 1, "batch": 32, **fast(name, 2), **asked})
        (tmp_path / str(train_mode)).mkdir()
        recipe.train(*training_of(module, blobs(64), tmp_path / str(train_mode), 32), tuple(map(parse, LEARNT[name])))
        assert int(module[1].num_batches_tracked) == cross_entropy_step + attacked * train_mode
