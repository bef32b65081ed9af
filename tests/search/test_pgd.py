"""PGD against linear models, whose exact distances inside the box are known in closed form."""

import math

import pytest
import torch

from robench.problem.threats import parse
from robench.search.attack import Batch, Seen
from robench.search.attacks import build
from robench.search.attacks import parse as parse_attack
from robench.search.attacks.pgd import PGD

from ..exact_distances import Linear, classifier, distance, fraction, toy
from .running import broken_rows

N = 16


def check_around(model, split, distances, attack, norm, restarts=1):
    """At radii a hair around some of the distances: every example nearer breaks, every one farther stands."""
    reachable = sorted(d for d in distances if not math.isinf(d))
    assert len(reachable) >= N / 2
    for exact in reachable[1::8]:
        for radius in (exact * 1.01, exact * 0.999):
            broken = broken_rows(
                model, parse(f"{norm}:{fraction(radius)}"), attack, split, range(N), restarts, slots=160
            )
            assert {row for row in range(N) if distances[row] * 1.0099 < radius} <= broken, "one within reach stands"
            assert all(distances[row] <= radius for row in broken), "one out of reach broke"


@pytest.mark.costly
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("edges", [False, True], ids=["inside the box", "a third of the pixels at its edge"])
def test_pgd_breaks_a_linear_model_just_beyond_its_distance_and_never_before(classes, norm, edges):
    module = Linear(classes)
    model = classifier(module, classes)
    split = toy(model, N, edges=edges)
    distances = [distance(module, split.x[row], int(split.y[row]), norm) for row in range(N)]
    # Aimed at every wrong class in turn, the margin is linear, so the climb has one summit.
    attack = PGD(steps=100, random_start=False, targets=9 if classes > 2 else 0)
    check_around(model, split, distances, attack, norm)


@pytest.mark.costly
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["margin", "cross-entropy"])
def test_random_starts_and_either_loss_get_there_too(norm, loss):
    module = Linear(2)
    model = classifier(module)
    split = toy(model, N, edges=False)
    distances = [distance(module, split.x[row], int(split.y[row]), norm) for row in range(N)]
    check_around(model, split, distances, PGD(steps=300, step_size=0.02, loss=loss), norm)


def test_its_step_is_two_and_a_half_radii_in_all_unless_said():
    assert PGD(steps=50).stride == pytest.approx(0.05)
    assert PGD(steps=50, step_size=0.3).stride == 0.3


@pytest.mark.costly
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_probability_margin_with_steps_that_fade_gets_there_too(norm):
    module = Linear(3)
    model = classifier(module, 3)
    split = toy(model, N, edges=False)
    distances = [distance(module, split.x[row], int(split.y[row]), norm) for row in range(N)]
    attack = PGD(steps=100, loss="probability-margin", schedule="cosine", targets=2)
    check_around(model, split, distances, attack, norm)


def test_the_steps_of_the_cosine_schedule_fall_from_two_radii_to_0():
    attack, threat = PGD(steps=4, random_start=False, schedule="cosine"), parse("linf:0.01")
    x = torch.full((1, 1, 1, 1), 0.5)
    batch = Batch(x, torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    state, lengths = attack.start(threat, batch), []
    for turn in range(4):
        before, sign = state.delta, (-1) ** turn
        seen = Seen(torch.zeros(1, 2), torch.zeros(1), torch.full_like(x, float(sign)))
        state = attack.step(threat, batch, state, seen)
        lengths.append((state.delta - before).abs().item() / 0.01)
    # 2 radii are cut at the ball; then the whole ball across, 1 radius and what is left of a cosine.
    assert lengths == pytest.approx([1.0, 1 + math.cos(math.pi / 4), 1.0, 1 - math.cos(math.pi / 4)], rel=1e-4)


def test_a_setting_that_came_later_is_named_only_where_it_differs():
    assert PGD().spec == "pgd(loss='margin', random_start=True, step_size=None, steps=100, targets=0)"
    assert "schedule='cosine'" in PGD(schedule="cosine").spec
    assert build(*parse_attack(PGD(schedule="cosine").spec)) == PGD(schedule="cosine")
