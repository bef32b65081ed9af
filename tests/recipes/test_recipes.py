"""Recipes: a second of training makes a net that fell stand, and a killed training ends as an undisturbed one."""

import contextlib
import signal
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.architectures import ARCHITECTURES
from robench.problem.checkpoints import load
from robench.problem.checkpoints.cards import read_card
from robench.problem.datasets import DATASETS
from robench.problem.losses import cross_entropy
from robench.problem.noise import normal, uniform
from robench.problem.split import Split
from robench.problem.threats import RT, parse
from robench.recipes import RECIPES, configure, training
from robench.recipes.adaptive import sampled
from robench.recipes.adversarial import TrainingStep, losses
from robench.recipes.augmentation import SHIFT_AND_MIRROR, TRANSFORM, Augmentation, _rotated_and_shifted
from robench.recipes.eat import threat_shares
from robench.recipes.making import Order, default_architecture, make
from robench.recipes.sat_ac import jensen_shannon
from robench.recipes.trades import divergence
from robench.recipes.training import Training, TrainingData
from robench.search.attack import Batch, State, differentiate, unroll
from robench.search.attacks.pgd import PGD

CPU = torch.device("cpu")


class Silent:
    def step(self, step, steps, loss, accuracy):
        pass


def blobs(n=512):
    """Sixty pixels that tell the classes apart a little, and that an adversary turns round; four that hold."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    side = 2 * y[:, None] - 1
    x = 0.5 + 0.02 * side + 0.02 * torch.randn(n, 64, generator=g)
    x[:, :4] = 0.5 + 0.25 * side + 0.05 * torch.randn(n, 4, generator=g)
    return Split.whole("blobs:train", x.clamp(0, 1).view(n, 1, 8, 8), y, 2)


def standing(module, split, threat):
    batch = Batch(split.x, split.y, split.y, keys=torch.arange(len(split)))
    x_adv = split.x + unroll(module.eval(), threat, PGD(steps=20), batch).delta
    return (module(x_adv).argmax(dim=1) == split.y).float().mean().item()


def training_of(module, split, tmp_path, batch=64, identity="test"):
    optimiser = torch.optim.Adam(module.parameters())
    return Training(module, optimiser, tmp_path / "state", identity, Silent()), TrainingData.of(split, batch, 0, CPU)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))


LEARNT = dict.fromkeys(
    ("avg", "max", "msd", "sat", "sat_ac", "mng_ac", "eat", "adaptive"), ("linf:0.15", "l2:0.3", "l1:0.4")
)
LEARNT |= {"rst": ("linf:0.15",)}
LEARNT |= {"ramp": ("linf:0.15", "l1:0.4"), "nfgsm": ("linf:0.15",)}
LEARNT |= {"pgd_at": ("linf:0.15",), "trades": ("linf:0.15",), "spatial_at": ("rt:2px,20deg",), "nat": (), "ant": ()}


def fast(name, steps):
    """So many steps of the attack, as a setting, if the recipe has an attack of several steps."""
    kind = RECIPES[name]
    known = {field.name for field in fields(kind)} - {*kind.unused()}
    return {"inner_steps": steps} if "inner_steps" in known else {}


def plain(steps, folder):
    """A net that was trained without an attack."""
    module = mlp()
    recipe = configure("nat", "blobs", {"steps": steps, "batch": 64, "lr": 1e-2})
    recipe.train(*training_of(module, blobs(), folder), ())
    return module


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return plain(250, tmp_path_factory.mktemp("fallen"))


@pytest.mark.costly
@pytest.mark.parametrize("name", sorted({*RECIPES} - {"nat", "spatial_at", "ant"}))
def test_a_second_of_training_makes_a_broken_network_robust(name, broken, tmp_path):
    threats, split, robust = tuple(map(parse, LEARNT[name])), blobs(), mlp()
    settings = {"steps": 150, "batch": 64, "lr": 1.5e-2, "inner_step_size": 0.6} | fast(name, 2)
    settings |= {"beta": 6.0} if name == "trades" else {}
    unused = RECIPES[name].unused()
    recipe = configure(name, "blobs", {key: value for key, value in settings.items() if key not in unused})
    recipe.train(*training_of(robust, split, tmp_path), threats)
    before, after = ([standing(net, split, threat) for threat in threats] for net in (broken, robust))
    assert before[0] < 0.1 < 0.75 < after[0], (before, after)
    assert all(b <= a + 0.03 for b, a in zip(before, after, strict=True)), (before, after)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("name", "others", "text"),
    [
        ("spatial_at", (), "rt:2px,30deg"),
        ("spatial_at", (), "rt-l2:2px,30deg+l2:3"),
        ("sat_ac", ("l2:0.3",), "rt:2px,30deg"),
        ("mng_ac", ("l2:0.3",), "rt:2px,30deg"),
    ],
)
def test_training_on_transforms_makes_a_broken_network_robust(name, others, text, tmp_path):
    y = torch.arange(256) % 2
    x = torch.zeros(256, 1, 8, 8)
    x[y == 0, :, 2:6, 3:5] = 1  # bars
    x[y == 1, :, 3:5, 2:6] = 1
    x = (x + 0.05 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    split, threat = Split.whole("bars:train", x, y, 2), parse(text)
    broken, robust = mlp(), mlp()
    settings = {"steps": 150, "batch": 64, "lr": 1e-2}
    configure("nat", "bars", settings).train(*training_of(broken, split, tmp_path), ())
    (tmp_path / "state").unlink()
    settings |= {"beta": 1.0, **fast(name, 1)} if others else {"steps": 400, "transforms": 4}
    threats = (*map(parse, others), threat)
    configure(name, "bars", settings).train(*training_of(robust, split, tmp_path), threats)

    def under_every_transform(module):
        limits = threat.limits(x)
        transforms = torch.cartesian_prod(*[torch.linspace(-1, 1, 5)] * 3) * limits
        moved = [threat.apply(x, transform.expand(len(x), 3)) for transform in transforms]
        with torch.no_grad():
            return torch.stack([module.eval()(images).argmax(dim=1) == y for images in moved]).all(dim=0).float().mean()

    assert under_every_transform(broken) < 0.5 < 0.8 < under_every_transform(robust)


def training_step(module, split, texts, noise=0.0):
    batch = Batch(split.x, split.y, split.y, keys=torch.arange(len(split)))
    return TrainingStep(module.eval(), batch, tuple(map(parse, texts)), noise, {})


def test_avg_goes_down_the_mean_loss_over_all_threats_and_max_down_the_worst_of_each_example():
    module, split, texts = mlp(), blobs(40), ("linf:0.05", "l2:0.36", "l1:1.6")
    recipe = configure("avg", "blobs", {"batch": 40})
    now = training_step(module, split, texts)
    each = torch.stack([losses(module.eval(), recipe.images(now, threat), split.y) for threat in now.threats])
    assert (each.argmax(dim=0).bincount() > 0).sum() > 1, "no threat is the worst for all"
    torch.testing.assert_close(recipe.train_step(now).loss.detach(), each.mean())
    worst = configure("max", "blobs", {"batch": 40}).train_step(training_step(module, split, texts))
    torch.testing.assert_close(worst.loss.detach(), each.amax(dim=0).mean())


def test_sat_meets_every_threat_equally_often_and_one_per_batch():
    split, texts = blobs(128), ("linf:0.05", "l2:0.6", "l1:2")
    data = TrainingData.of(split, 64, 0, CPU)
    noise = [data.noise(step) for step in range(900)]
    drawn_ = torch.tensor([int(d * 3) for d in noise]).bincount(minlength=3)
    assert (drawn_ - 300).abs().max() < 45  # three standard deviations
    recipe, module = configure("sat", "blobs", {"batch": 64}), mlp()
    for place, text in enumerate(texts):
        now = training_step(module, split, texts, noise=(place + 0.5) / 3)
        alone = losses(module.eval(), recipe.images(now, parse(text)), split.y).mean()
        torch.testing.assert_close(recipe.train_step(now).loss.detach(), alone)


def test_adaptive_samples_threats_by_errors_and_forgets_none():
    recipe = configure("adaptive", "blobs", {"least": 0.3})
    shares = recipe.shares(torch.tensor([0.9, 0.0, 0.1]))
    torch.testing.assert_close(shares, torch.tensor([0.1 + 0.7 * 0.9, 0.1, 0.1 + 0.7 * 0.1]))
    picked = torch.tensor([sampled(shares, (i + 0.5) / 1000) for i in range(1000)]).bincount()
    torch.testing.assert_close(picked / 1000, shares, atol=2e-3, rtol=0)
    assert sampled(shares, 0.999999) == 2


def test_the_divergence_of_trades_is_that_of_the_book():
    first, second = torch.randn(5, 4), torch.randn(5, 4)
    p, q = first.double().softmax(1), second.double().softmax(1)
    by_hand = torch.tensor(
        [sum(a * (a / b).log() for a, b in zip(r, s, strict=True)) for r, s in zip(p, q, strict=True)]
    )
    torch.testing.assert_close(divergence(first, second).double(), by_hand, atol=1e-6, rtol=1e-5)
    now = training_step(mlp(), blobs(16), ("linf:0.1",))
    recipe = configure("trades", "blobs", {"batch": 16, "beta": 3.0})
    x_adv = recipe.neighbours(now)
    clean, answered = (now.module(x).detach() for x in (now.batch.x, x_adv))
    expected = nn.functional.cross_entropy(clean, now.batch.y) + 3 * divergence(clean, answered).mean()
    torch.testing.assert_close(recipe.train_step(now).loss.detach(), expected)
    assert parse("linf:0.1").contains(x_adv, now.batch.x).all()
    noise = (now.batch.x + 0.1 * torch.randn_like(now.batch.x).sign()).clamp(0, 1)
    assert divergence(clean, answered).mean() > divergence(clean, now.module(noise).detach()).mean()


def test_msd_takes_the_step_that_raises_the_loss_most_and_trains_on_the_highest_loss():
    module, split, texts = mlp().eval(), blobs(24), ("linf:0.05", "l2:0.6", "l1:2")
    recipe = configure("msd", "blobs", {"batch": 24, "inner_steps": 1})
    now = training_step(module, split, texts)
    each = []
    for threat in now.threats:  # one step from zero, by PGD itself
        attack = recipe.pgd(threat)
        seen = differentiate(module, cross_entropy, split.x, split.y, split.y)
        moved = attack.step(threat, now.batch, State(torch.zeros_like(split.x)), seen)
        each.append(losses(module, split.x + moved.delta, split.y))
    found = losses(module, split.x + recipe.perturbation(now), split.y)
    torch.testing.assert_close(found, torch.stack(each).amax(dim=0))
    further = configure("msd", "blobs", {"batch": 24, "inner_steps": 10}).perturbation(now)
    assert (losses(module, split.x + further, split.y) >= found - 1e-6).all()


def test_eat_samples_threats_by_errors_counted_from_the_first_step():
    even = torch.tensor([0.5, 0.5])
    assert torch.equal(threat_shares(torch.tensor([3.0, 0.0]), torch.tensor([8.0, 0.0])), even), (
        "until all have been met"
    )
    assert torch.equal(threat_shares(torch.tensor([8.0, 8.0]), torch.tensor([8.0, 8.0])), even), "where nothing fails"
    torch.testing.assert_close(
        threat_shares(torch.tensor([6.0, 2.0]), torch.tensor([8.0, 8.0])), torch.tensor([0.25, 0.75])
    )
    now = training_step(mlp(), blobs(32), ("linf:0.1", "l1:1"), noise=0.4)
    for kept, met in ((1.0, [64.0, 0.0]), (0.5, [48.0, 0.0])):
        now.memory.clear()
        recipe = configure("eat", "blobs", {"batch": 32, "kept": kept})
        for _ in range(2):
            recipe.train_step(now._replace(module=now.module.eval()))
        assert now.memory["met"].tolist() == met


def test_eat_trains_on_the_best_point_of_apgd_and_an_example_is_standing_if_no_query_fooled(tmp_path):
    module, split = mlp(), blobs(64)
    configure("nat", "blobs", {"steps": 60, "lr": 1e-2}).train(*training_of(module, split, tmp_path), ())
    now = training_step(module, split, ("linf:0.1", "l2:0.45", "l1:0.8"))
    recipe = configure("eat", "blobs", {"batch": 64})
    asked = []
    handle = module.register_forward_hook(lambda m, args, out: asked.append((args[0].detach(), out.detach())))
    for chosen, threat in enumerate(now.threats):
        asked.clear()
        x_adv, stood = recipe.ascend(now, chosen)
        points, answers = zip(*asked, strict=True)
        assert len(points) == recipe.inner_steps + 1
        assert torch.equal(points[0], split.x), "it starts at the image itself"
        assert all(threat.contains(point, split.x).all() for point in points)
        each = torch.stack([nn.functional.cross_entropy(answer, split.y, reduction="none") for answer in answers])
        torch.testing.assert_close(losses(module, x_adv, split.y), each.amax(dim=0))
        learnt_from = torch.stack([(point == x_adv).flatten(1).all(dim=1) for point in points])
        assert learnt_from.any(dim=0).all(), "a point that was asked about"
        right = torch.stack([answer.argmax(dim=1) == split.y for answer in answers]).all(dim=0)
        assert torch.equal(stood, right)
        assert 0 < right.sum() < 64, chosen
    first = (points[1] != split.x).flatten(1).sum(dim=1)
    assert (first <= 4).all(), "a twentieth of the coordinates moves first under l_1"
    handle.remove()


def test_the_divergence_of_consistency_is_that_of_the_book():
    answers = [torch.randn(5, 4).double() for _ in range(3)]
    p = [a.softmax(dim=1) for a in answers]
    middle = sum(p) / 3
    by_hand = sum((q * (q / middle).log()).sum(dim=1) for q in p) / 3
    torch.testing.assert_close(jensen_shannon(*answers), by_hand)
    far = torch.tensor([[1e4, 0.0, 0.0]]), torch.tensor([[0.0, 1e4, 0.0]]), torch.tensor([[0.0, 0.0, 1e4]])
    torch.testing.assert_close(jensen_shannon(*far), torch.tensor([3.0]).log())  # the most there is


def test_sat_ac_adds_the_divergence_among_clean_noisy_and_attacked_images_to_the_loss_of_sat():
    module, split, texts = mlp(), blobs(32), ("linf:0.1", "l2:0.3", "l1:1")
    for place, text in enumerate(texts):
        now = training_step(module, split, texts, noise=(place + 0.5) / 3)
        seen = []
        handle = module.register_forward_pre_hook(lambda m, args, seen=seen: seen.append((m.training, args[0])))
        loss = configure("sat_ac", "blobs", {"beta": 2.0}).train_step(now).loss.detach()
        handle.remove()
        module.eval()
        x, noisy, x_adv = (images for learning, images in seen if learning)
        assert torch.equal(x, split.x)
        torch.testing.assert_close(x_adv, configure("sat", "blobs", {}).images(now, parse(text)))
        assert parse(text).contains(noisy, split.x).all()
        signs = (noisy - split.x).sign() == normal(now.batch.keys, 0, split.x).sign()
        assert signs[noisy != split.x].float().mean() < 0.6, "another draw than the start of the attack"
        reach = parse(text).size(noisy - split.x)
        assert reach.mean() > 0.5 * parse(text).r, "the noise fills the ball, as far as the box lets it"
        p = [module(images).detach().softmax(dim=1) for images in (x, noisy, x_adv)]
        middle = sum(p) / 3
        apart = sum((q * (q / middle).log()).sum(dim=1) for q in p).mean() / 3
        torch.testing.assert_close(loss, losses(module, x_adv, split.y).mean() + 2 * apart)


def linear(w):
    """Two classes told apart by the sign of w.(x - 1/2); the margin is that number."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(len(w), 2))
    with torch.no_grad():
        module[1].weight.copy_(torch.stack([-w / 2, w / 2]))
        module[1].bias.copy_(torch.stack([w.sum() / 4, -w.sum() / 4]))
    return module.eval()


@pytest.mark.parametrize(
    ("texts", "reach"), [(("linf:0.05", "l2:0.01"), 0.05 * 61), (("l2:0.3", "linf:0.001"), 0.3 * 9)]
)
def test_the_loss_of_msd_on_a_linear_net_is_that_worked_out_by_hand(texts, reach):
    w = torch.cat([torch.ones(56), torch.tensor([5.0]), torch.zeros(7)])  # absolute sum 61, length (56 + 25)^(1/2) = 9
    split = Split.whole("grey", torch.full((6, 1, 8, 8), 0.5), torch.ones(6, dtype=torch.long), 2)
    now = training_step(linear(w), split, texts)
    outcome = configure("msd", "grey", {"batch": 6}).train_step(now)
    # Of a grey image the margin is 0, and the worst of the threats takes radius x dual norm away.
    torch.testing.assert_close(outcome.loss.detach(), torch.tensor(reach).exp().log1p())
    assert outcome.accuracy == 0


def stopped(name, folder, stops, way="killed"):
    """The weights of a training that is stopped so often and continued each time."""
    recipe, split = configure(name, "blobs", {"steps": 12, "batch": 64, **fast(name, 3)}), blobs()
    for stop in stops:
        module = mlp()  # a new process begins with fresh weights
        under_way, data = training_of(module, split, folder)
        under_way.report = Killer(stop, way)
        with contextlib.suppress(KeyboardInterrupt):
            recipe.train(under_way, data, tuple(map(parse, LEARNT[name])))
    return [*module.parameters()]


@pytest.fixture(scope="module", params=sorted(RECIPES))
def undisturbed(request, tmp_path_factory):
    """The name of a recipe, and the weights of a training that nothing stops."""
    return request.param, stopped(request.param, tmp_path_factory.mktemp("whole"), [99])


@pytest.mark.costly
@pytest.mark.parametrize("way", ["killed", "asked to stop"])
def test_a_training_stopped_anywhere_ends_with_the_weights_of_an_undisturbed_one(
    undisturbed, way, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0 if way == "killed" else 60.0)
    name, whole = undisturbed
    for a, b in zip(whole, stopped(name, tmp_path, [2, 5, 6, 99], way), strict=True):
        assert torch.equal(a, b)


class Killer(Silent):
    def __init__(self, stop, way):
        self.stop, self.way = stop, way

    def step(self, step, steps, loss, accuracy):
        if step == self.stop and self.way == "killed":  # after the optimiser moved, before the state is kept
            raise KeyboardInterrupt
        if step == self.stop:
            signal.raise_signal(signal.SIGINT)


def test_the_order_of_images_depends_on_seed_and_epoch_alone():
    split = blobs(100)
    one, other = (TrainingData.of(split, 20, seed, CPU) for seed in (0, 1))
    epoch = torch.cat([one.at(step).keys for step in range(5)])
    assert len(epoch.unique()) == 100  # every image once
    assert torch.equal(one.at(7).x, TrainingData.of(split, 20, 0, CPU).at(7).x)
    assert not torch.equal(one.at(0).x, other.at(0).x)
    assert not torch.equal(one.at(0).x, one.at(5).x)
    assert not torch.equal(one.at(0).keys, one.at(5).keys)


def test_augmentation_shifts_over_black_and_mirrors_whole_images():
    x = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1
    split = Split.whole("images:train", x, torch.zeros(64, dtype=torch.long), 2)
    batch = TrainingData.of(split, 64, 0, CPU, Augmentation(mirror=True)).at(0)
    plain = TrainingData.of(split, 64, 0, CPU).at(0)
    padded = nn.functional.pad(plain.x, (4, 4, 4, 4))
    windows = [padded[:, :, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
    windows += [w.flip(3) for w in windows]
    matches = torch.stack([(batch.x == w).flatten(1).all(dim=1) for w in windows])
    assert matches.any(dim=0).all()
    chosen = matches.int().argmax(dim=0)
    assert len(chosen.unique()) > 30
    assert 10 < (chosen >= 81).sum() < 54


@pytest.mark.parametrize(("tx", "ty"), [(2, 0), (0, -1), (-2, 1)])
def test_augmentation_by_whole_pixels_is_the_shift_of_the_spatial_attack(tx, ty):
    x = torch.rand(3, 2, 9, 12, generator=torch.Generator().manual_seed(0))
    params = torch.tensor([[tx, ty, 0.0]]).expand(3, 3)
    shifted = _rotated_and_shifted(x, params)
    torch.testing.assert_close(shifted, RT.parse("3px,0deg").apply(x, params), atol=1e-5, rtol=0)


@pytest.mark.parametrize("turn", [90.0, -90.0, 180.0, 30.0])
def test_augmentation_turns_as_the_spatial_attack_does(turn):
    waves = torch.linspace(0, 3, 48)
    x = (0.5 + 0.4 * torch.sin(waves)[:, None] * torch.cos(1.3 * waves[None, :32]))[None, None]
    params = torch.tensor([[3.0, -2.0, turn]])
    given, expected = _rotated_and_shifted(x, params), RT.parse("3px,180deg").apply(x, params)
    filled = RT.parse("3px,180deg").apply(torch.ones_like(x), params)
    inside = -nn.functional.max_pool2d(-filled, 5, stride=1, padding=2) > 0.999  # no pixel from outside is near
    inside[..., :2, :] = inside[..., -2:, :] = inside[..., :2] = inside[..., -2:] = False
    assert inside.sum() > 400
    assert (given - expected)[inside].abs().max() < 4e-3  # the waves' curvature, which the bilinear one flattens


def augmented(x, epoch=0, **settings):
    split = Split.whole("images:train", x, torch.zeros(len(x), dtype=torch.long), 2)
    return TrainingData.of(split, len(x), 0, CPU, configure("nat", "blobs", settings).augmentation()).at(epoch)


def test_augmentation_within_a_threat_stays_in_it_and_differs_by_image_and_epoch():
    dot = torch.zeros(64, 1, 9, 9)
    dot[..., 4, 4] = 1
    one, other = (augmented(dot, epoch, augment_rt="rt:1px,0deg").x for epoch in (0, 1))
    assert not torch.equal(one, other)
    assert len(one.flatten(1).unique(dim=0)) > 60
    assert one.min() >= 0
    assert one.max() <= 1
    middle = [(one.sum(dim=i)[:, 0] * torch.arange(9.0)).sum(dim=1) / one.sum(dim=(1, 2, 3)) - 4 for i in (2, 3)]
    for along in middle:
        assert 0.8 < along.abs().max() < 1.15  # bicubic weights that are clipped at 0 move it by a little more
        assert along.min() < -0.5 < 0.5 < along.max()


def test_augmentation_turns_both_ways_up_to_its_limit():
    line = torch.zeros(64, 1, 21, 21)
    line[..., 10, 4:17] = 1
    turned = augmented(line, augment_rt="rt:0px,30deg").x[:, 0]
    height = (turned * torch.arange(21.0)[:, None]).sum(dim=1) / turned.sum(dim=1).clamp(min=1e-6) - 10  # by column
    angle = torch.atan2(height[:, 6] - height[:, 14], torch.tensor(8.0)).rad2deg()
    assert -31 < angle.min() < -25 < 25 < angle.max() < 31


def test_augmentation_keeps_more_contrast_than_bilinear_resampling():
    strokes = (torch.rand(64, 1, 20, 20, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    ours = augmented(strokes, augment_rt="rt:1px,15deg").x
    params = torch.rand(64, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    bilinear = RT.parse("1px,15deg").apply(strokes, params * torch.tensor([1.0, 1.0, 15.0]))
    assert bilinear.std() < 0.55 * strokes.std()
    assert ours.std() > 0.72 * strokes.std()  # 0.66 with one bilinear resampling


def test_augmentation_mirrors_shifts_and_transforms_by_noise_of_their_own():
    x = torch.rand(256, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1
    mirrored, both = augmented(x, augment=True), augmented(x, augment=True, augment_rt="rt:1px,10deg")
    share = 2 * uniform(mirrored.keys, TRANSFORM, 3) - 1
    torch.testing.assert_close(both.x, _rotated_and_shifted(mirrored.x, share * torch.tensor([1.0, 1.0, 10.0])))
    across = uniform(mirrored.keys, SHIFT_AND_MIRROR, 3)
    assert torch.corrcoef(torch.stack([share[:, 0], across[:, 0]]))[0, 1].abs() < 0.2


def test_pseudo_labelled_images_are_augmented_too():
    split = blobs(64)
    data = TrainingData.of(split, 32, 0, CPU, configure("nat", "blobs", {"augment_rt": "rt:1px,10deg"}).augmentation())
    plain = TrainingData.of(split, 32, 0, CPU)
    one, other = (d.beside(replace(split, name="more")).at(0).x for d in (data, plain))
    assert ((one - other).flatten(1).abs().amax(dim=1) > 0).all()


def test_a_training_with_augmentation_makes_other_weights(tmp_path):
    def weights(name, **settings):
        recipe = configure("nat", "blobs", {"steps": 2, "batch": 16, **settings})
        order = Order(recipe, (), "blobs", "digits-cnn", 0, tmp_path / name, "")
        make(order, blobs(64), CPU, Silent())
        return load(str(tmp_path / f"{name}.safetensors")).classifier.module.state_dict()

    plain, turned, same = weights("a"), weights("b", augment_rt="rt:1px,10deg"), weights("c", augment_rt="none")
    assert all(torch.equal(plain[key], same[key]) for key in plain)
    assert not all(torch.equal(plain[key], turned[key]) for key in plain)
    card = read_card(tmp_path / "b.toml")
    assert card.settings["augment_rt"] == "rt:1px,10deg"


@pytest.mark.parametrize("limits", ["linf:0.1", "rt:1px", "rt:1px,10deg,pad4", "1px,10deg", "nonsense", ""])
def test_augmentation_refuses_what_is_no_shift_and_rotation(limits):
    with pytest.raises(UserError, match=r"rt:1px,10deg, or none|write it like rt:"):
        configure("nat", "blobs", {"augment_rt": limits})


def test_augmentation_has_one_spelling_and_leaves_something_to_see(tmp_path):
    assert configure("nat", "blobs", {"augment_rt": "rt:0.50px, 15.0deg"}).augment_rt == "rt:0.5px,15deg"
    recipe = configure("nat", "blobs", {"steps": 2, "batch": 16, "augment_rt": "rt:8px,0deg"})
    with pytest.raises(UserError, match="augment_rt=rt:8px,0deg moves everything out of view"):
        make(Order(recipe, (), "blobs", "digits-cnn", 0, tmp_path / "m", ""), blobs(64), CPU, Silent())


# As written into the states of trainings that are under way: a new setting must not change it.
IDENTITIES = {
    "nat": "Nat(steps=6000, batch=100, augment=False, lr=0.001) against no attack on mnist, madry-mnist, seed 0",
    "pgd_at": "PGDAdversarialTraining(steps=6000, batch=100, augment=False, lr=0.001, inner_steps=10, "
    "inner_step_size=0.25, warmup=0.1, poses=10) against linf:0.15 on mnist, madry-mnist, seed 0",
    "adaptive": "Adaptive(steps=6000, batch=100, augment=False, lr=0.001, inner_steps=10, inner_step_size=0.25, "
    "warmup=0.1, poses=10, recent=0.95, least=0.3) against linf:0.15+l2:0.3+l1:0.4 on mnist, madry-mnist, seed 0",
}


@pytest.mark.parametrize("name", sorted(IDENTITIES))
def test_the_identity_of_a_training_stays_what_it_was(name):
    def identity(**settings):
        recipe = configure(name, "mnist", settings)
        return Order(recipe, tuple(map(parse, LEARNT[name])), "mnist", "madry-mnist", 0, Path("out"), "").identity

    assert identity() == IDENTITIES[name]
    if name != "nat":
        assert identity(bn_train_attack=True) == f"{IDENTITIES[name]}, bn_train_attack=True"
    assert identity(optimiser="sgd", lr=1e-3) == f"{IDENTITIES[name]}, optimiser='sgd'"


def test_a_model_comes_with_a_card_that_says_how_it_was_made(tmp_path):
    split = Split.whole("toy:train", torch.rand(80, 1, 28, 28), torch.arange(80) % 10, 10)
    recipe = configure("nat", "toy", {"steps": 3, "batch": 16})
    order = Order(recipe, (), "toy", "digits-cnn", 5, tmp_path / "zoo" / "toy-nat", "robench train nat", half=True)
    card = make(order, split, CPU, Silent())
    assert (card.recipe, card.seed, card.data, card.settings["steps"]) == ("nat", 5, "toy", 3)
    assert card.settings["data_sha256"] == split.sha256
    assert not order.state.exists()
    loaded = load(str(tmp_path / "zoo" / "toy-nat.safetensors"))
    assert loaded.classifier.architecture == "digits-cnn"
    assert (tmp_path / "zoo" / "toy-nat.safetensors").stat().st_size < 130_000  # half of float32's


def test_the_state_of_another_training_is_refused(tmp_path):
    first, _ = training_of(mlp(), blobs(), tmp_path)
    first._save(3)
    other, _ = training_of(mlp(), blobs(), tmp_path, identity="another")
    with pytest.raises(UserError, match="holds another training"):
        next(iter(other.steps(5)))
    (tmp_path / "state").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read"):
        next(iter(first.steps(5)))


def test_a_state_of_another_network_or_of_no_training_is_refused(tmp_path):
    first, _ = training_of(mlp(), blobs(), tmp_path)
    first._save(3)
    larger, _ = training_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), blobs(), tmp_path)
    with pytest.raises(UserError, match="holds the weights of another network than --arch names now"):
        next(iter(larger.steps(5)))
    torch.save([1, 2], tmp_path / "state")
    with pytest.raises(UserError, match="holds no state of a training; delete it"):
        next(iter(first.steps(5)))


@pytest.mark.parametrize(
    ("name", "settings", "reported"),
    [
        ("pgd-at", {}, "did you mean pgd_at"),
        ("nat", {"stepz": 3}, "did you mean steps"),
        ("nat", {"steps": "many"}, "cannot take steps='many'"),
        ("nat", {"steps": 0}, "must be at least 1"),
        ("pgd_at", {"lr": -1.0}, "must be above 0"),
        ("nat", {"augment": 1}, "cannot take augment=1"),
        ("nat", {"lr": float("inf")}, "must be a finite number, above 0"),
        ("pgd_at", {"warmup": 1.5}, "must be from 0 to 1"),
        ("adaptive", {"least": 2}, "must be from 0 to 1"),
    ],
)
def test_a_setting_that_makes_no_sense_says_why(name, settings, reported):
    with pytest.raises(UserError, match=reported):
        configure(name, "digits", settings)


def test_a_whole_number_will_do_where_a_fraction_is_meant():
    assert repr(configure("pgd_at", "digits", {"warmup": 0})) == repr(configure("pgd_at", "digits", {"warmup": 0.0}))


@pytest.mark.parametrize(
    ("name", "texts", "reported"),
    [
        ("nat", ["linf:0.1"], "leave --threat out"),
        ("pgd_at", [], "give it one"),
        ("pgd_at", ["linf:0.1", "l2:1"], "against one threat"),
        ("pgd_at", ["l0:3"], "it can against linf, l2, l1"),
        ("max", ["linf:0.1"], "two threats or more"),
        ("msd", ["linf:0.1", "rt:1px,5deg"], "cannot train against rt:1px,5deg"),
        ("spatial_at", ["linf:0.1"], "it can against rt"),
    ],
)
def test_threats_a_recipe_cannot_train_against_are_refused(name, texts, reported):
    with pytest.raises(UserError, match=reported):
        configure(name, "digits", {}).check(tuple(map(parse, texts)))


def test_too_few_images_for_a_batch_say_so():
    with pytest.raises(UserError, match="fewer than one batch"):
        TrainingData.of(blobs(10), 64, 0, CPU)


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "svhn", "tiny-imagenet"])
def test_the_default_network_of_a_data_set_takes_its_images(name):
    data = DATASETS[name]
    network = ARCHITECTURES[default_architecture(name)].build(data.shape, data.classes)
    assert network(torch.rand(2, *data.shape)).shape == (2, data.classes)
