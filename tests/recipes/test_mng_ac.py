"""MNG-AC: the generator's gradient is the exact one, and its steps make the trial step help."""

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.noise import normal
from robench.problem.threats import parse
from robench.recipes import configure
from robench.recipes.adversarial import TrainingStep, losses
from robench.recipes.memory import stored
from robench.recipes.mng_ac import FRESH_NOISE, META_NOISE, projected
from robench.search.attack import Batch

from .test_recipes import blobs, mlp, training_step

BALLS = ("linf:0.2", "l2:0.5", "l1:1.5")


def tiny(dtype=torch.float64, size=5):
    """A smooth net for one-channel images, and twelve of them."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * (size - 2) ** 2, 4)).to(dtype)
    x = torch.rand(12, 1, size, size, dtype=dtype)
    y = torch.arange(12) % 4
    return module, Batch(x, y, y, keys=torch.arange(100, 112))


def a_lesson(module, batch, texts=BALLS, noise=0.0):
    return TrainingStep(module.eval(), batch, tuple(map(parse, texts)), noise, {})


def after_the_trial_step(module, recipe, batch, threat, x_adv, weights):
    """What the generator goes down, by plain first-order steps."""
    x_aug = recipe.noisy(batch, threat, weights, META_NOISE)
    parameters = list(module.parameters())
    loss = nn.functional.cross_entropy(module(x_aug), batch.y)
    slopes = torch.autograd.grad(loss, parameters)
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter -= recipe.alpha * slope
        loss = nn.functional.cross_entropy(module(x_adv), batch.y)
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old)
    return loss


@pytest.mark.costly
@pytest.mark.parametrize("generator", ["image", "noise"])
@pytest.mark.parametrize("text", BALLS)
def test_the_meta_gradient_equals_finite_differences(text, generator):
    module, batch = tiny()
    recipe, threat = configure("mng_ac", "toy", {"generator": generator, "alpha": 0.5}), parse(text)
    now = a_lesson(module, batch)
    x_adv = (batch.x + threat.sample(batch.x, torch.randn_like(batch.x))).detach()
    weights = recipe.fresh(batch)
    gradient = recipe.meta_gradient(now, threat, x_adv, weights)
    assert {key: value.shape for key, value in gradient.items()} == {k: v.shape for k, v in weights.items()}
    largest = max(float(g.abs().max()) for g in gradient.values())
    assert largest > 1e-4
    step = 1e-5
    for key, weight in weights.items():
        for place in torch.randperm(weight.numel())[:6].tolist():
            sides = []
            for side in (step, -step):
                moved = {**weights, key: weight.clone()}
                moved[key].view(-1)[place] += side
                sides.append(after_the_trial_step(module, recipe, batch, threat, x_adv, moved))
            slope = float(sides[0] - sides[1]) / (2 * step)
            assert float(gradient[key].view(-1)[place]) == pytest.approx(slope, rel=1e-4, abs=1e-6 * largest)


def test_steps_of_the_generator_make_the_trial_step_help_more():
    module, batch = tiny(torch.float32, size=8)
    recipe = configure("mng_ac", "toy", {"alpha": 0.3})
    now, threat = a_lesson(module, batch), parse("l2:1")
    x_adv = batch.x + threat.sample(batch.x, torch.randn_like(batch.x))
    before = after_the_trial_step(module, recipe, batch, threat, x_adv, recipe.fresh(batch))
    for _ in range(30):
        recipe.improve(now, threat, x_adv)
    after = after_the_trial_step(module, recipe, batch, threat, x_adv, stored(now.memory, "weights"))
    assert after < before - 1e-3


def test_the_generators_step_is_that_of_sgd_with_momentum_and_decay():
    module, batch = tiny()
    recipe, threat = configure("mng_ac", "toy", {}), parse("l2:0.5")
    now, x_adv = a_lesson(module, batch), batch.x.flip(0)
    reference = [nn.Parameter(weight.clone()) for weight in recipe.fresh(batch).values()]
    optimiser = torch.optim.SGD(reference, lr=recipe.alpha, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        weights = dict(zip(recipe.fresh(batch), (p.detach() for p in reference), strict=True))
        for parameter, slope in zip(reference, recipe.meta_gradient(now, threat, x_adv, weights).values(), strict=True):
            parameter.grad = slope
        optimiser.step()
        recipe.improve(now, threat, x_adv)
    for ours, theirs in zip(stored(now.memory, "weights").values(), reference, strict=True):
        torch.testing.assert_close(ours, theirs.detach())


@pytest.mark.parametrize(("follows", "share"), [(False, 1.0), (True, 0.25)])
def test_alpha_follows_the_learning_rate_on_request(follows, share):
    module, batch = tiny()
    recipe = configure("mng_ac", "toy", {"alpha": 0.4, "alpha_schedule": follows})
    fixed = configure("mng_ac", "toy", {"alpha": 0.4 * share})
    threat, x_adv = parse("l2:0.5"), batch.x.flip(0)
    one, other = a_lesson(module, batch)._replace(rate=0.25), a_lesson(module, batch)
    recipe.improve(one, threat, x_adv)
    fixed.improve(other, threat, x_adv)
    assert one.memory.keys() == other.memory.keys()
    for key, tensor in one.memory.items():
        torch.testing.assert_close(tensor, other.memory[key])


@pytest.mark.parametrize("text", BALLS)
def test_the_projection_with_a_gradient_is_that_of_the_threat_model(text):
    threat, x = parse(text), torch.rand(40, 1, 4, 5)
    delta = torch.randn(40, 1, 4, 5) * torch.logspace(-3, 2, 40).view(-1, 1, 1, 1)
    torch.testing.assert_close(projected(threat, delta, x), threat.project(delta, x), atol=1e-5, rtol=1e-5)
    some = delta[::5].double().requires_grad_()
    torch.autograd.gradcheck(lambda d: projected(threat, d, x[::5].double()), some)


def test_rates_of_a_generator_that_does_not_exist_are_refused():
    for settings in ({"alpha": 0.5}, {"alpha_schedule": True}):
        with pytest.raises(UserError, match="no effect with generator=none"):
            configure("mng_ac", "toy", {"generator": "none", **settings})
    assert configure("mng_ac", "toy", {"generator": "none", "noise_unit": "pixel"}).generator == "none"


def test_the_generator_sees_the_image_unless_it_is_to_see_noise_alone():
    _, batch = tiny()
    other = Batch(batch.x.flip(2), batch.y, batch.y, batch.keys)
    threat = parse("l2:0.01")  # so small that the box hardly matters
    for generator, sees in (("image", True), ("noise", False)):
        recipe = configure("mng_ac", "toy", {"generator": generator})
        weights = recipe.fresh(batch)
        one, two = (recipe.noisy(b, threat, weights, META_NOISE) - b.x for b in (batch, other))
        inside = (batch.x > 0.02) & (batch.x < 0.98) & (other.x > 0.02) & (other.x < 0.98)
        assert torch.allclose(one[inside], two[inside], atol=1e-6) is not sees
    assert (
        sum(
            weight.numel()
            for weight in configure("mng_ac", "x", {"generator": "noise"})
            .fresh(Batch(torch.zeros(1, 3, 8, 8), batch.y[:1], batch.y[:1], batch.keys[:1]))
            .values()
        )
        == 4183
    )  # as published


@pytest.mark.parametrize("text", BALLS)
def test_noise_in_the_unit_of_the_radius_passes_a_gradient_where_pixels_of_unit_scale_are_clipped(text):
    threat = parse({"linf:0.2": "linf:8/255"}.get(text, text))
    _, batch = tiny(size=12)
    passed = {}
    for unit in ("radius", "pixel"):
        recipe = configure("mng_ac", "toy", {"noise_unit": unit})
        weights = {key: weight.requires_grad_() for key, weight in recipe.fresh(batch).items()}
        x_aug = recipe.noisy(batch, threat, weights, META_NOISE)
        assert threat.contains(x_aug.float(), batch.x.float()).all()
        passed[unit] = float(((x_aug - batch.x).abs() < threat.r * 0.999).double().mean())
    if threat.name == "linf":
        assert passed["radius"] > 5 * passed["pixel"]


@pytest.mark.parametrize("text", ["rt:2px,20deg", "rt-l2:2px,20deg+l2:0.3"])
def test_under_rt_the_images_are_transformed_and_the_noise_lies_in_the_l2_ball(text):
    others = ("l2:0.3",) if text.startswith("rt:") else ("l2:5",)
    module, split, texts = mlp(), blobs(32), ("linf:0.1", text, *others)
    now, seen = training_step(module, split, texts, noise=0.5), []
    handle = module.register_forward_pre_hook(lambda m, args: seen.append((m.training, args[0].detach())))
    loss = configure("mng_ac", "blobs", {"beta": 2.0}).train_step(now).loss.detach()
    handle.remove()
    module.eval()
    trial, after, x, noisy, x_adv = (images for learning, images in seen if learning)
    torch.testing.assert_close(x_adv, configure("spatial_at", "blobs", {}).images(now, parse(texts[1])))
    assert torch.equal(after, x_adv)
    ball = parse("l2:0.3")
    for images in (trial, noisy):
        assert ball.contains(images, x).all()
        assert ball.size(images - x).mean() > 0.2
    p = [module(images).detach().softmax(dim=1) for images in (x, noisy, x_adv)]
    apart = sum((q * (q / (sum(p) / 3)).log()).sum(dim=1) for q in p).mean() / 3
    torch.testing.assert_close(loss, losses(module, x_adv, split.y).mean() + 2 * apart)


@pytest.mark.parametrize("name", ["mng_ac", "sat_ac"])
def test_rt_needs_an_l2_ball_beside_it(name):
    threats = tuple(map(parse, ("linf:0.1", "rt:2px,20deg", "l2:0.3")))
    configure(name, "toy", {}).check(threats)
    with pytest.raises(UserError, match="add one, like --threat l2"):
        configure(name, "toy", {}).check(threats[:2])
    configure(name, "toy", {}).check((threats[0], parse("rt-l2:2px,20deg+l2:0.3")))


@pytest.mark.parametrize("text", BALLS)
def test_without_a_generator_the_noise_is_normal_and_nothing_is_remembered(text):
    module, batch = tiny(torch.float32)
    threat, now = parse(text), a_lesson(module, batch, (text, "l2:0.5"))
    pixel = configure("mng_ac", "toy", {"generator": "none", "noise_unit": "pixel"})
    noise = normal(batch.keys, FRESH_NOISE, nn.functional.pad(batch.x, [1] * 4))[..., 1:-1, 1:-1]
    expected = batch.x + threat.project(noise, batch.x)
    torch.testing.assert_close(pixel.noisy(batch, threat, {}, FRESH_NOISE), expected, atol=1e-5, rtol=1e-5)
    pixel.train_step(now)
    assert not now.memory


def test_without_the_divergence_the_loss_is_that_of_sat():
    module, batch = tiny(torch.float32)
    now = a_lesson(module, batch, noise=0.5)
    loss = configure("mng_ac", "toy", {"beta": 0}).train_step(now).loss
    sat = configure("sat", "toy", {}).train_step(now._replace(module=module.eval())).loss
    torch.testing.assert_close(loss, sat)


@pytest.mark.parametrize(
    ("settings", "reported"),
    [({"generator": "nois"}, "did you mean noise"), ({"noise_unit": 1}, "cannot take noise_unit=1")],
)
def test_an_unknown_kind_of_generator_is_refused(settings, reported):
    with pytest.raises(ValueError, match=reported):
        configure("mng_ac", "toy", settings)
