"""ANT: what its generator goes up, what a batch is made of, and what it is good for."""

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem import datasets
from robench.problem.noise import normal
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.recipes import configure
from robench.recipes.ant import EARLIER, GENERATOR, HARDER, SHOWN, fitted, fresh_weights, generated
from robench.recipes.memory import store, stored
from robench.search.attack import Batch

from .test_recipes import blobs, mlp, training_of, training_step


def made(batch, correlated=False, scale=1.0):
    weights = fresh_weights(batch.keys[:1], batch.x, correlated)
    return {key: scale * value for key, value in weights.items()}


def rms(change):
    return change.flatten(1).square().mean(dim=1).sqrt()


@pytest.mark.parametrize("length", [0.01, 1.0, 3.0])
def test_noise_is_scaled_until_its_clipped_change_has_the_length(length):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(20, 1, 8, 8, generator=g)
    x[:10] = (x[:10] > 0.5).float()  # half of the noise is clipped
    noise = torch.randn(x.shape, generator=g)
    for unit in (1e-3, 1.0, 100.0):
        scaled = fitted(unit * noise, x, length)
        change = ((x + scaled).clamp(0, 1) - x).flatten(1).norm(dim=1)
        torch.testing.assert_close(change, torch.full((20,), length), rtol=2e-3, atol=0)
        assert (change <= length * 1.0001).all()
        ratio = scaled / noise
        torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))  # a multiple of the noise


def test_the_generator_is_four_convolutions_of_noise_and_the_noise():
    batch = Batch(torch.rand(2, 3, 6, 6), torch.zeros(2).long(), torch.zeros(2).long(), torch.arange(2))
    weights, noise = made(batch, scale=30.0), torch.randn(2, 3, 6, 6)
    assert sum(weight.numel() for weight in weights.values()) == 3 * 20 + 20 + 2 * (400 + 20) + 60 + 3
    pixels = noise.permute(0, 2, 3, 1)  # of kernels with a single pixel: dense layers on every pixel
    for layer in range(4):
        pixels = (pixels if layer == 0 else pixels.relu()) @ weights[f"{layer}.weight"][:, :, 0, 0].T
    torch.testing.assert_close(generated(weights, noise), noise + pixels.permute(0, 3, 1, 2))
    wide = made(batch, correlated=True)
    assert [wide[f"{layer}.weight"].shape[2] for layer in range(4)] == [1, 3, 1, 1]
    assert generated(wide, noise).shape == noise.shape


def test_the_generator_takes_an_adam_step_up_the_loss_of_the_network_in_eval_mode():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    batch = training_step(module, blobs(64), ()).batch
    recipe, memory = configure("ant", "blobs", {"sigma": 0.2, "generator_lr": 0.01}), {}
    store(memory, GENERATOR, made(batch))
    reference = [nn.Parameter(weight.clone()) for weight in stored(memory, GENERATOR).values()]
    adam = torch.optim.Adam(reference, lr=0.01)
    values = []
    for _ in range(4):
        weights = dict(zip(stored(memory, GENERATOR), reference, strict=True))
        x = recipe.noisy(weights, batch.x, batch.keys, HARDER)
        torch.testing.assert_close(rms(x - batch.x).detach(), torch.full((64,), 0.2), rtol=2e-3, atol=0)
        loss = nn.functional.cross_entropy(module.eval()(x), batch.y)
        values.append(loss.item())
        adam.zero_grad()
        (-loss).backward()
        adam.step()
        recipe.harden(module, memory, batch, HARDER)
        for ours, theirs in zip(stored(memory, GENERATOR).values(), reference, strict=True):
            torch.testing.assert_close(ours, theirs.detach())
    assert values == sorted(values), "each step raises the loss on the same noise"
    assert int(module[2].num_batches_tracked) == 0
    assert not any(key.requires_grad for key in memory.values())


def test_a_batch_is_half_clean_and_has_noise_of_this_generator_and_two_earlier_ones():
    batch = training_step(mlp(), blobs(40), ()).batch
    recipe, memory = configure("ant", "blobs", {"sigma": 0.1}), {}
    store(memory, GENERATOR, made(batch, scale=50.0))
    current = stored(memory, GENERATOR)
    old = {number: made(batch, scale=100.0 + 60 * number) for number in range(3)}
    noise = {
        name: recipe.noisy(weights, batch.x, batch.keys, SHOWN) for name, weights in {**old, "new": current}.items()
    }
    first = recipe.mixed(memory, batch)
    assert torch.equal(first[:20], batch.x[:20])
    torch.testing.assert_close(first[20:], noise["new"][20:])  # there is no earlier one
    for number, weights in old.items():
        store(memory, f"{EARLIER}.{number}", weights)
    later = recipe.mixed(memory, batch)
    torch.testing.assert_close(later[:32], first[:32])
    for rows in (slice(32, 36), slice(36, 40)):
        same = [n for n in range(3) if torch.allclose(later[rows], noise[n][rows], atol=1e-6)]
        assert len(same) == 1, "all of one earlier generator"


def test_every_epoch_begins_with_a_new_generator_and_keeps_the_last_one(tmp_path):
    recipe = configure("ant", "blobs", {"steps": 17, "batch": 64, "alone": 0.25, "sigma": 0.1})
    training, data = training_of(mlp(), blobs(), tmp_path)
    steps, harden = [], type(recipe).harden

    class Counted(type(recipe)):
        def harden(self, module, memory, batch, restart):
            steps.append((restart, len({k.split(".")[1] for k in memory if k.startswith("earlier.")})))
            harden(self, module, memory, batch, restart)

    Counted(steps=17, batch=64, alone=0.25, sigma=0.1).train(training, data, ())
    epoch = [2, 2] + [0] * 8  # a quarter of eight steps alone
    assert [restart for restart, _ in steps] == (epoch * 3)[: 10 + 10 + 3]
    assert [earlier for _, earlier in steps] == [0] * 10 + [1] * 10 + [2] * 3
    first, second = (stored(training.memory, f"earlier.{n}")["0.weight"] for n in (0, 1))
    assert not torch.equal(first, second)


def digits(part):
    """Digits of 7 x 7 pixels."""
    split = datasets.load("digits", part)
    return Split.whole(f"small:{part}", nn.functional.avg_pool2d(split.x, 4), split.y, 10)


@pytest.mark.costly
def test_a_second_of_training_makes_a_network_robust_to_noise_that_broke_it(tmp_path):
    test, settings = digits("test"), {"steps": 200, "batch": 64, "lr": 5e-3}
    noise = normal(torch.arange(len(test)), 0, test.x)
    accuracies = {}
    for name, own in (("nat", {}), ("ant", {"sigma": 0.3})):
        (tmp_path / name).mkdir()
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(49, 64), nn.ReLU(), nn.Linear(64, 10))
        recipe = configure(name, "small", settings | own)
        recipe.train(*training_of(module, digits("train"), tmp_path / name), ())
        images = [(test.x + fitted(kind, test.x, 0.3 * 7)).clamp(0, 1) for kind in (noise, noise.abs(), 0 * noise)]
        accuracies[name] = [float((module(x).argmax(dim=1) == test.y).float().mean()) for x in images]
    (gauss, brighter, clean), (robust_gauss, robust_brighter, still) = accuracies.values()
    assert brighter < 0.65 < 0.72 < robust_brighter, accuracies
    assert robust_gauss > gauss + 0.05, accuracies
    assert still > clean - 0.03, accuracies


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"clean": 0.8, "current": 0.3}, "add up to more than 1"), ({"sigma": 0}, "above 0"), ({"alone": 2}, "from 0")],
)
def test_a_setting_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        configure("ant", "mnist", settings)


def test_ant_takes_no_threat():
    with pytest.raises(UserError, match="leave --threat out"):
        configure("ant", "mnist", {}).check((parse("l2:1"),))


@pytest.mark.parametrize("shares", [{"clean": 0.5, "current": 0.5}, {"clean": 1.0, "current": 0.0}, {"batch": 3}])
def test_a_part_of_the_batch_may_be_empty(tmp_path, shares):
    split = Split.whole("toy:train", torch.rand(40, 1, 8, 8), torch.arange(40) % 4, 4)
    recipe = configure("ant", "toy", {"steps": 3, "batch": 8} | shares)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    training, data = training_of(module, split, tmp_path, batch=recipe.batch)
    recipe.train(training, data, ())
    assert all(weight.isfinite().all() for weight in module.parameters())
