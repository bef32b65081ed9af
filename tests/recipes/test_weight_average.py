"""The moving average of the weights is what a training ends with, what its checks measure, and what a kill keeps."""

import contextlib
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.split import Split
from robench.recipes import configure
from robench.recipes import training as saving
from robench.recipes.making import Order, make
from robench.recipes.validation import Validation
from robench.recipes.weight_average import weight_average

from .test_recipes import Killer, Silent, blobs, mlp, training_of

DECAY = 0.8


class Recorder:
    """Keeps the weights after every step."""

    def __init__(self, module):
        self.module, self.weights = module, []

    def step(self, step, steps, loss, accuracy):
        self.weights.append(nn.utils.parameters_to_vector(self.module.parameters()).detach().clone())


def trained(folder, report=None, steps=9):
    recipe = configure("nat", "blobs", {"steps": steps, "batch": 64, "lr": 0.05, "weight_average": DECAY})
    module = mlp()
    training, data = training_of(module, blobs(), folder)
    training.optimiser = recipe.optimiser_for(module.parameters())
    training.average = weight_average(module, recipe.weight_average)
    training.report = report or Recorder(module)
    with contextlib.suppress(KeyboardInterrupt):
        recipe.train(training, data, ())
    return training


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_the_average_is_the_weighted_mean_of_all_steps_in_closed_form(tmp_path, steps):
    training = trained(tmp_path, steps=steps)
    weights = torch.stack(training.report.weights).double()
    shares = torch.tensor([DECAY ** (steps - 1 - k) for k in range(steps)], dtype=torch.float64)
    average = nn.utils.parameters_to_vector(training.result.parameters()).detach().double()
    torch.testing.assert_close(average, (shares / shares.sum()) @ weights, atol=1e-6, rtol=1e-5)
    if steps == 9:
        assert (average - weights[-1]).abs().max() > 1e-3


def test_running_statistics_are_averaged_and_counters_are_those_of_the_last_step():
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4))
    average, norm = weight_average(module, DECAY), module[1]
    seen = []
    for step in range(3):
        module.train()(torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(step)) + 5 * step)
        average.update_parameters(module)
        seen.append(norm.running_mean.clone())
    shares = torch.tensor([DECAY**2, DECAY, 1.0])
    torch.testing.assert_close(average.module[1].running_mean, (shares / shares.sum()) @ torch.stack(seen))
    assert average.module[1].num_batches_tracked == 3


def test_a_training_that_is_killed_ends_with_the_average_of_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SAVE_EVERY", 0.0)
    for name in ("whole", "pieces"):
        (tmp_path / name).mkdir()
    whole = trained(tmp_path / "whole", Silent())
    for stop in (2, 5, 99):
        pieces = trained(tmp_path / "pieces", Killer(stop, "killed"))
    for a, b in zip(whole.result.parameters(), pieces.result.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_checks_measure_the_average_and_leave_the_training_as_it_was(tmp_path):
    training = trained(tmp_path)
    checks = []
    held = replace(blobs(), numbers=tuple(range(len(blobs()))))
    recipe = configure("nat", "blobs", {"steps": 9, "batch": 64, "weight_average": DECAY})
    validation = Validation.of(recipe, (), training, held, checks.append)
    before = nn.utils.parameters_to_vector(training.module.parameters()).clone()
    with torch.no_grad():
        for weight in training.average.module.parameters():
            weight.zero_()  # every answer is the class 0
    clean = validation.check_held_out(9).clean
    assert clean == (held.y == 0).float().mean().item()
    assert torch.equal(before, nn.utils.parameters_to_vector(training.module.parameters()))


def made(folder, **settings):
    split = Split.whole("toy:train", torch.rand(80, 1, 28, 28, generator=torch.Generator()), torch.arange(80) % 10, 10)
    recipe = configure("nat", "toy", {"steps": 6, "batch": 16, "lr": 0.01} | settings)
    order = Order(recipe, (), "toy", "digits-cnn", 0, folder / "model", "", precision="bfloat16")
    card = make(order, split, torch.device("cpu"), Silent())
    return card, safetensors.torch.load_file(order.weights), order


def test_the_file_has_the_average_and_the_card_its_setting(tmp_path):
    without, last, plain = made(tmp_path / "without")
    _, nearly, _ = made(tmp_path / "almost", weight_average=1e-9)
    card, average, order = made(tmp_path / "with", weight_average=0.9)
    assert "weight_average" not in without.settings
    assert card.settings["weight_average"] == 0.9
    assert "weight_average=0.9" in order.identity
    assert "weight_average" not in plain.identity
    torch.testing.assert_close(nearly["fc2.weight"], last["fc2.weight"], atol=1e-6, rtol=1e-5)
    assert (average["fc2.weight"] - last["fc2.weight"]).abs().max() > 1e-3


def test_shares_outside_their_range_and_recipes_that_change_weights_later_are_refused():
    for share in (1, -0.1):
        with pytest.raises(UserError, match="weight_average"):
            configure("nat", "toy", {"weight_average": share})
    with pytest.raises(UserError, match="weight_average"):
        configure("ramp", "toy", {"weight_average": 0.9})
