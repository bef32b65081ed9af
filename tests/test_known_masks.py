"""Masked models for which the robustness is known: from an attacker who knows the mask, and from exact bounds."""

import itertools
import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robench.testing import masked as zoo
from robench.testing.masked import MASKED, masked, stand_in

from .test_masked import DETERMINISTIC, EXAMPLES, KEEPING, base

pytestmark = pytest.mark.precision
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CHANGING = sorted(set(DETERMINISTIC) - set(KEEPING))


@pytest.fixture(scope="module")
def benchmark():
    """The names of the benchmark, with one quick attack."""
    made = runpy.run_path(str(BENCHMARKS / "known_masks.py"))
    made["evaluate_known_mask"].__globals__["ATTACKS"] = ("apgd(loss='margin', steps=30)",)
    return made


@pytest.mark.parametrize("name", CHANGING)
def test_a_stand_in_predicts_as_the_masked_model_and_has_a_gradient_everywhere(name):
    x = EXAMPLES.x[:8].clone().requires_grad_()
    known = stand_in(name, base())(x)
    assert torch.equal(known, masked(name, base())(EXAMPLES.x[:8]))
    right = known.gather(1, EXAMPLES.y[:8, None]).sum()
    (gradient,) = torch.autograd.grad(right, x)
    assert (gradient.flatten(1) != 0).any(dim=1).all()


def test_the_stand_in_of_a_mask_that_keeps_predictions_is_the_model_inside():
    assert torch.equal(stand_in("one-hot", base())(EXAMPLES.x[:2]), base()(EXAMPLES.x[:2]))


def test_the_stand_in_of_a_stochastic_mask_has_the_mean_logits_of_many_passes():
    torch.manual_seed(0)
    module, known = masked("noise", base()), stand_in("noise", base())
    with torch.no_grad():
        many = torch.stack([module(EXAMPLES.x[:4]) for _ in range(100)])
        of_stand_in = torch.stack([known(EXAMPLES.x[:4]) for _ in range(13)])
    assert known.passes == 8
    standard_error = many.std(dim=0) * 2**0.5 / 100**0.5
    assert ((of_stand_in.mean(dim=0) - many.mean(dim=0)).abs() < 5 * standard_error).all()


def test_attacks_on_the_stand_in_break_a_masked_model_without_a_gradient(benchmark):
    left = benchmark["evaluate_known_mask"]("black-and-white", base(), "digits", "linf:0.3", 6).threats[0]
    assert left.open == 0
    assert left.broken >= 3
    assert not masked("black-and-white", base())(
        EXAMPLES.x[:1].clone().requires_grad_()
    ).requires_grad  # of its own none


def test_an_image_that_fools_only_the_stand_in_is_rejected(benchmark, monkeypatch):
    class Liar(nn.Module):
        """Always predicts another class than the masked model."""

        def __init__(self, mask):
            super().__init__()
            self.mask = mask

        def forward(self, x):
            return self.mask(x).roll(1, dims=1)

    monkeypatch.setitem(zoo.MASKED, "rounded-input", replace(MASKED["rounded-input"], stand_in=Liar))
    left = benchmark["evaluate_known_mask"]("rounded-input", base(), "digits", "linf:0.001", 3).threats[0]
    assert (left.broken, left.standing) == (0, 3)
    assert left.rejected["does not fool"] >= 3


@pytest.mark.parametrize("name", ["", "rounded-input", "black-and-white", "dead-threshold"])
@pytest.mark.parametrize("radius", [0.1, 0.3])
def test_the_exact_robustness_of_a_linear_model_agrees_with_a_search_on_a_fine_grid(name, radius, benchmark, tmp_path):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(30, 1, 2, 2, generator=generator)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(3, 4, generator=generator))
        module = masked(name, net) if name else net
        y = module(x).argmax(dim=1)
        y[:3] = (y[:3] + 1) % 3  # wrong before any attack
        np.savez(tmp_path / "d.npz", x=x.numpy(), y=y.numpy())
        exact = benchmark["standing_exactly"](module, str(tmp_path / "d.npz"), radius, 30)
        steps = torch.linspace(-radius, radius, 9).tolist()
        aside = torch.tensor(list(itertools.product(steps, repeat=4))).view(-1, 1, 2, 2)
        stands = [
            (module((image + aside).clamp(0, 1)).argmax(dim=1) == label).all()
            for image, label in zip(x, y, strict=True)
        ]
    assert exact == sum(stands)
    assert 0 < exact < 27


@pytest.mark.parametrize("name", ["rounded-input", "dead-threshold"])
def test_images_certified_by_intervals_withstand_the_corners_of_the_ball(name, benchmark):
    module = masked(name, base())
    still, tiny, wide = (benchmark["standing_bound"](module, "digits", radius, 40) for radius in (0.0, 1e-3, 0.2))
    torch.manual_seed(0)
    with torch.no_grad():
        corners = [
            EXAMPLES.x,
            *((EXAMPLES.x + torch.randn_like(EXAMPLES.x).sign() * 1e-3).clamp(0, 1) for _ in range(8)),
        ]
        stands = torch.stack([module(x).argmax(dim=1) == EXAMPLES.y for x in corners])
    assert still == stands[0].sum()
    assert 0 < tiny <= stands.all(dim=0).sum()
    assert wide <= tiny < 40


def test_a_benchmark_reuses_its_stored_rows_only_for_the_same_question(tmp_path):
    saved = runpy.run_path(str(BENCHMARKS / "resumable.py"))["SavedRows"](tmp_path)
    made = []

    def make():
        made.append(1)
        return [{"on": f"{len(made)}.0"}]

    assert saved.rows("linear, small", {"n": 1}, make) == saved.rows("linear, small", {"n": 1}, make) == [{"on": "1.0"}]
    assert saved.rows("linear, small", {"n": 2}, make) == [{"on": "2.0"}]
    assert [json.loads(path.read_text())["rows"] for path in tmp_path.iterdir()] == [[{"on": "2.0"}]]
    assert len(saved.note()) == 1
