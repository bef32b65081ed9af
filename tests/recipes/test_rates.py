"""The optimiser and the learning rates of a training: those of the papers, and by default what they always were."""

import contextlib
from typing import get_args

import pytest
import safetensors.torch
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.split import Split
from robench.recipes import RECIPES, configure
from robench.recipes import training as saving
from robench.recipes.making import Order, make
from robench.recipes.schedule import DROPS, KNOTS, RateSchedule, rate

from .test_recipes import Killer, Silent, blobs, mlp, training_of


def rates(schedule, steps, lr=1.0):
    return [rate(schedule, lr, step, steps) for step in range(steps)]


def test_every_schedule_is_defined_once():
    assert sorted(get_args(RateSchedule)) == sorted([*DROPS, *KNOTS, "cosine"])


@pytest.mark.parametrize("steps", [1, 2, 7, 6000, 6001])
def test_the_default_rates_are_bit_for_bit_those_of_older_trainings(steps):
    lr = 1.37e-3
    assert rates("step", steps, lr) == [lr if step < steps / 2 else lr / 10 for step in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0] * 8),
        ("step", [1.0] * 4 + [0.1] * 4),
        ("multistep", [1.0] * 4 + [0.1] * 2 + [0.01] * 2),
        ("late-step", [1.0] * 7 + [0.1]),
    ],
)
def test_a_rate_that_drops_falls_to_a_tenth_at_its_shares_of_the_training(schedule, expected):
    assert rates(schedule, 8) == pytest.approx(expected)


def test_the_rates_of_tramer_and_boneh_on_cifar10_drop_at_their_steps():
    found = rates("multistep", 80_000, 0.1)
    assert [found[step] for step in (0, 39_999, 40_000, 59_999, 60_000, 79_999)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


def test_thirds_are_thirds():
    assert rates("thirds", 9) == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.01] * 3)


def test_the_triangle_of_madaan_et_al_rises_for_two_fifths_and_falls_to_zero():
    expected = [0.0525, 0.105, 0.1575, 0.21, 0.175, 0.14, 0.105, 0.07, 0.035, 0.0]
    assert rates("triangular", 10, 0.21) == pytest.approx(expected)


def test_the_piecewise_rates_of_msd_pass_through_its_four_points():
    found = rates("piecewise", 50, 0.1)  # one step an epoch: 0 at 0, 0.1 at 20, 0.005 at 40, 0 at 50
    assert [found[step] for step in (9, 19, 29, 39, 44, 49)] == pytest.approx([0.05, 0.1, 0.0525, 0.005, 0.0025, 0])


def test_the_cosine_falls_from_the_highest_rate_to_zero():
    assert rates("cosine", 4, 2.0) == pytest.approx([1 + 0.5**0.5, 1.0, 1 - 0.5**0.5, 0.0])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_sgd_with_momentum_and_decay_and_a_schedule(name):
    settings = {"optimiser": "sgd", "lr": 0.21, "weight_decay": 5e-4, "schedule": "triangular", "steps": 10}
    recipe = configure(name, "cifar10", settings)
    (group,) = recipe.optimiser_for(mlp().parameters()).param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, False)
    assert [recipe.rate(step) for step in range(10)] == rates("triangular", 10, 0.21)


def test_steps_of_sgd_are_those_worked_out_by_hand(tmp_path):
    settings = {"optimiser": "sgd", "lr": 0.5, "momentum": 0.75, "weight_decay": 0.01, "schedule": "triangular"}
    recipe = configure("nat", "blobs", settings | {"steps": 5, "batch": 64})
    module, split = mlp(), blobs()
    by_hand = [p.detach().clone() for p in module.parameters()]
    training, data = training_of(module, split, tmp_path)
    training.optimiser = recipe.optimiser_for(module.parameters())
    recipe.train(training, data, ())
    speeds = [torch.zeros_like(p) for p in by_hand]
    reference = mlp()
    for step, lr in enumerate((0.25, 0.5, 1 / 3, 1 / 6, 0.0)):
        with torch.no_grad():
            for parameter, weight in zip(reference.parameters(), by_hand, strict=True):
                parameter.copy_(weight)
        batch = data.at(step)
        loss = nn.functional.cross_entropy(reference(batch.x), batch.y)
        slopes = torch.autograd.grad(loss, [*reference.parameters()])
        speeds = [0.75 * v + g + 0.01 * w for v, g, w in zip(speeds, slopes, by_hand, strict=True)]
        by_hand = [w - lr * v for w, v in zip(by_hand, speeds, strict=True)]
    for parameter, weight in zip(module.parameters(), by_hand, strict=True):
        torch.testing.assert_close(parameter.detach(), weight, atol=1e-5, rtol=1e-4)


def test_a_training_by_sgd_that_is_killed_ends_with_the_weights_of_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SAVE_EVERY", 0.0)
    settings = {"optimiser": "sgd", "lr": 0.1, "schedule": "triangular", "steps": 9, "batch": 64}
    recipe = configure("nat", "blobs", settings)

    def trained(folder, stops):
        folder.mkdir()
        for stop in stops:
            module = mlp()
            training, data = training_of(module, blobs(), folder)
            training.optimiser, training.report = recipe.optimiser_for(module.parameters()), Killer(stop, "killed")
            with contextlib.suppress(KeyboardInterrupt):
                recipe.train(training, data, ())
        return module

    whole, pieces = trained(tmp_path / "whole", [99]), trained(tmp_path / "pieces", [2, 5, 99])
    for a, b in zip(whole.parameters(), pieces.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_gradient_that_is_too_long_is_shortened(tmp_path):
    moves = {}
    for clip in (0.0, 0.01, 1e6):
        recipe = configure("nat", "blobs", {"optimiser": "sgd", "lr": 1.0, "steps": 1, "batch": 64})
        module = mlp()
        (tmp_path / str(clip)).mkdir()
        training, data = training_of(module, blobs(), tmp_path / str(clip))
        training.optimiser, training.clip = recipe.optimiser_for(module.parameters()), clip
        recipe.train(training, data, ())
        moves[clip] = nn.utils.parameters_to_vector(module.parameters()) - nn.utils.parameters_to_vector(
            mlp().parameters()
        )
    assert moves[0.0].norm() > 0.1
    assert torch.equal(moves[0.0], moves[1e6])
    torch.testing.assert_close(moves[0.01], 0.01 * moves[0.0] / moves[0.0].norm(), atol=1e-6, rtol=1e-3)


def test_the_clip_of_a_recipe_is_that_of_its_training(tmp_path):
    split = Split.whole("toy:train", torch.rand(80, 1, 28, 28), torch.arange(80) % 10, 10)
    moved = []
    for clip in (1e-4, 1e-2):
        settings = {"optimiser": "sgd", "lr": 1.0, "steps": 1, "batch": 16, "clip": clip}
        order = Order(configure("nat", "toy", settings), (), "toy", "digits-cnn", 0, tmp_path / str(clip), "")
        assert make(order, split, torch.device("cpu"), Silent()).settings["clip"] == clip
        moved.append(safetensors.torch.load_file(order.weights)["fc2.bias"])
    assert 1e-4 < (moved[1] - moved[0]).norm() < 1e-2  # without a clip both steps are the same


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_decay_may_leave_biases_and_batch_norm_out(optimiser):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    recipe = configure("nat", "toy", {"optimiser": optimiser, "weight_decay": 2e-4, "decay_all": False})
    decayed, free = recipe.optimiser_for(module.parameters()).param_groups
    assert decayed["weight_decay"] == 2e-4
    assert [w.ndim for w in decayed["params"]] == [4, 2]
    assert free["weight_decay"] == 0
    assert [w.ndim for w in free["params"]] == [1] * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimiser": "sdg"}, "did you mean sgd"),
        ({"schedule": "triangle"}, "did you mean triangular"),
        ({"momentum": 0.5}, "add --set optimiser=sgd"),
        ({"optimiser": "sgd", "momentum": 1.0}, "below 1"),
        ({"weight_decay": -1e-4}, "must be at least 0"),
        ({"decay_all": False}, "add --set weight_decay"),
    ],
)
def test_a_setting_of_the_optimiser_that_has_no_effect_or_no_sense_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        configure("max", "mnist", settings)
