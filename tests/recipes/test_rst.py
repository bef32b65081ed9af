"""RST: batches of two sets, and what may be in the second."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robench.errors import UserError
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.recipes import configure
from robench.recipes import training as saving
from robench.recipes.making import Order, make
from robench.recipes.training import TrainingData

from .test_recipes import CPU, Killer, Silent, blobs, mlp, standing, training_of


def two_sets(labelled=100, further=60, batch=20):
    """Images whose first pixel is their number, those of the second set above 1/2."""
    first, second = (torch.zeros(n, 1, 8, 8) for n in (labelled, further))
    first[:, 0, 0, 0], second[:, 0, 0, 0] = torch.arange(labelled) / 1000, 0.5 + torch.arange(further) / 1000
    one, two = (Split.whole(name, x, torch.arange(len(x)) % 2, 2) for name, x in (("one", first), ("two", second)))
    return TrainingData.of(one, batch, 0, CPU).beside(two), one, two


def test_half_of_every_batch_is_pseudo_labelled_and_both_sets_are_shuffled_on_their_own():
    data, one, two = two_sets()
    assert data.batches == 10
    batches = [data.at(step) for step in range(12)]
    for batch in batches:
        number = batch.x[:, 0, 0, 0]
        assert ((number >= 0.5).tolist()) == [False] * 10 + [True] * 10
        for split, rows in ((one, slice(0, 10)), (two, slice(10, 20))):
            place = ((number[rows] % 0.5) * 1000).round().long()
            assert torch.equal(batch.y[rows], split.y[place])
            assert torch.equal(batch.x[rows], split.x[place])
    seen = torch.cat([batch.x[:10, 0, 0, 0] for batch in batches[:10]])
    assert len(seen.unique()) == 100, "an epoch has every labelled image once"
    later = torch.cat([batch.x[10:, 0, 0, 0] for batch in batches[:6]])
    assert len(later.unique()) == 60, "the second set has epochs of its own"


def test_images_of_the_same_row_in_both_sets_have_different_noise():
    data, *_ = two_sets(60, 60)
    keys = torch.cat([data.at(step).keys for step in range(6)])
    assert len(keys.unique()) == len(keys) == 120


def test_without_a_second_set_batches_are_what_they_were():
    plain = TrainingData.of(two_sets()[1], 10, 0, CPU)
    mixed, *_ = two_sets()
    for step in (0, 3, 11):
        assert torch.equal(plain.at(step).x, mixed.at(step).x[:10])
        assert torch.equal(plain.at(step).keys, mixed.at(step).keys[:10])


def order(folder, pseudo, name="rst", steps=12, **settings):
    threats = (parse("linf:0.15"),)
    recipe = configure(name, "blobs", {"steps": steps, "batch": 64, "inner_steps": 2, **settings})
    return Order(recipe, threats, "blobs", "digits-cnn", 0, Path(folder) / "m", "", pseudo=pseudo)


def pseudo_labelled(n=512):
    return replace(blobs(n), name="more")


def test_the_loss_is_that_of_trades_with_beta_six():
    assert configure("rst", "mnist", {}) == replace(configure("rst", "mnist", {}), beta=6.0)
    rst, trades = (configure(name, "cifar10", {}) for name in ("rst", "trades"))
    assert type(rst).train_step is type(trades).train_step
    assert (rst.beta, rst.steps, rst.batch) == (6.0, trades.steps, trades.batch)


@pytest.mark.costly
def test_a_second_of_training_on_pseudo_labels_makes_a_network_robust_that_labels_alone_do_not(tmp_path):
    threat, grey = parse("linf:0.15"), replace(blobs(64), x=torch.full((64, 1, 8, 8), 0.5))  # labels of nothing
    settings = {"steps": 150, "batch": 64, "lr": 1.5e-2, "inner_steps": 2, "inner_step_size": 0.6}
    robust = {}
    for name in ("labelled", "both"):
        (tmp_path / name).mkdir()
        module = mlp()
        training, data = training_of(module, grey, tmp_path / name)
        data = data.beside(pseudo_labelled()) if name == "both" else data
        configure("rst", "blobs", settings).train(training, data, (threat,))
        robust[name] = standing(module, blobs(1024), threat)
    assert robust["labelled"] < 0.6 < 0.9 < robust["both"], robust


def test_a_training_with_both_sets_that_is_killed_ends_as_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SAVE_EVERY", 0.0)
    cards = []
    for place, stops in (("whole", [99]), ("pieces", [2, 5, 99])):
        (tmp_path / place).mkdir()
        for stop in stops:
            with contextlib.suppress(KeyboardInterrupt):
                card = make(order(tmp_path / place, pseudo_labelled()), blobs(), CPU, Killer(stop, "killed"))
        cards.append(card)
    assert cards[0].sha256 == cards[1].sha256
    assert cards[0].settings["pseudo_labelled"] == f"more ({pseudo_labelled().sha256[:12]})"


def test_the_identity_of_a_training_has_the_hash_of_the_second_set(tmp_path):
    one, other = (order(tmp_path, pseudo).identity for pseudo in (pseudo_labelled(), pseudo_labelled(500)))
    assert one != other
    assert order(tmp_path, None, "trades").identity.endswith("seed 0")


@pytest.mark.parametrize(
    ("pseudo", "message"),
    [
        (None, "name them with --pseudo-labelled"),
        (Split.whole("p", torch.zeros(9, 3, 8, 8), torch.zeros(9).long(), 2), "has images of 3x8x8 .* has 1x8x8"),
        (Split.whole("p", torch.zeros(9, 1, 8, 8), torch.arange(9), 9), "classes up to 8, but .* in 2 classes"),
        (pseudo_labelled(20), "more has 20 examples, fewer than one batch of 32"),
    ],
)
def test_images_that_do_not_fit_are_refused(tmp_path, pseudo, message):
    with pytest.raises(UserError, match=message):
        make(order(tmp_path, pseudo), blobs(), CPU, Silent())
    assert not list(tmp_path.iterdir())
