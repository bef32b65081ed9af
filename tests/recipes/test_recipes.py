"""Recipes: a second of training makes a net that fell stand, and a killed training ends as an undisturbed one."""

import contextlib
import signal

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.checkpoints import load
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.recipes import RECIPES, configure, training
from robench.recipes.making import Order, make
from robench.recipes.training import Training, TrainingData
from robench.search.attack import Batch, unroll
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


def test_adversarial_training_makes_a_net_stand_where_plain_training_lets_it_fall(tmp_path):
    threat, split = parse("linf:0.15"), blobs()
    fallen, firm = mlp(), mlp()
    settings = {"steps": 250, "batch": 64, "lr": 1e-2}
    configure("nat", "blobs", settings).train(*training_of(fallen, split, tmp_path), ())
    (tmp_path / "state").unlink()
    recipe = configure("pgd_at", "blobs", {**settings, "inner_steps": 5})
    recipe.train(*training_of(firm, split, tmp_path), (threat,))
    before, after = standing(fallen, split, threat), standing(firm, split, threat)
    assert before < 0.2 < 0.9 < after, (before, after)


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("way", ["killed", "asked to stop"])
def test_a_training_stopped_anywhere_ends_with_the_weights_of_an_undisturbed_one(name, way, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0 if way == "killed" else 60.0)
    threats = (parse("linf:0.1"),) if name != "nat" else ()
    recipe, split = configure(name, "blobs", {"steps": 12, "batch": 64}), blobs()

    def trained(folder, stops):
        folder.mkdir()
        for stop in stops:
            module = mlp()  # a new process begins with fresh weights
            under_way, data = training_of(module, split, folder)
            under_way.report = Killer(stop, way)
            with contextlib.suppress(KeyboardInterrupt):
                recipe.train(under_way, data, threats)
        return module

    whole, pieces = trained(tmp_path / "whole", [99]), trained(tmp_path / "pieces", [2, 5, 6, 99])
    for a, b in zip(whole.parameters(), pieces.parameters(), strict=True):
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
    batch = TrainingData.of(split, 64, 0, CPU, augment=True).at(0)
    plain = TrainingData.of(split, 64, 0, CPU).at(0)
    padded = nn.functional.pad(plain.x, (4, 4, 4, 4))
    windows = [padded[:, :, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
    windows += [w.flip(3) for w in windows]
    matches = torch.stack([(batch.x == w).flatten(1).all(dim=1) for w in windows])
    assert matches.any(dim=0).all()
    chosen = matches.int().argmax(dim=0)
    assert len(chosen.unique()) > 30
    assert 10 < (chosen >= 81).sum() < 54


def test_the_adversary_does_not_move_batch_norm_statistics(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 2))
    split = blobs()
    seen = []
    module[1].register_forward_hook(lambda m, args, out: seen.append(m.training))
    recipe = configure("pgd_at", "blobs", {"steps": 3, "batch": 64, "inner_steps": 4})
    recipe.train(*training_of(module, split, tmp_path), (parse("linf:0.1"),))
    assert seen.count(True) == 3
    assert int(module[1].num_batches_tracked) == 3


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


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("pgd-at", {}, "did you mean pgd_at"),
        ("nat", {"stepz": 3}, "did you mean steps"),
        ("nat", {"steps": "many"}, "cannot take steps='many'"),
        ("nat", {"steps": 0}, "must be above 0"),
        ("pgd_at", {"lr": -1.0}, "must be above 0"),
        ("nat", {"augment": 1}, "cannot take augment=1"),
    ],
)
def test_a_setting_that_makes_no_sense_says_why(name, settings, told):
    with pytest.raises(UserError, match=told):
        configure(name, "digits", settings)


@pytest.mark.parametrize(
    ("name", "texts", "told"),
    [
        ("nat", ["linf:0.1"], "leave --threat out"),
        ("pgd_at", [], "give it one"),
        ("pgd_at", ["linf:0.1", "l2:1"], "against one threat"),
        ("pgd_at", ["l0:3"], "PGD attacks linf, l2, l1"),
    ],
)
def test_threats_a_recipe_cannot_train_against_are_refused(name, texts, told):
    with pytest.raises(UserError, match=told):
        configure(name, "digits", {}).check(tuple(map(parse, texts)))


def test_too_few_images_for_a_batch_say_so():
    with pytest.raises(UserError, match="fewer than one batch"):
        TrainingData.of(blobs(10), 64, 0, CPU)
