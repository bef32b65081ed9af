"""The statements of Tramèr and Boneh 2019, section 2, held by the code that computes them."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from robench.problem.threats import parse
from robench.theory import Features, attacked, compounded_risks, linear_risks, lower_bound, theorem2
from robench.theory.linear import Linear, reach, risk
from robench.theory.theorem1 import linf_radius, mixtures

BINARY = Features(d=40, alpha=1.5, p0=0.9)
NORMAL = Features(d=40, alpha=1.5)


@pytest.mark.parametrize("features", [BINARY, NORMAL])
@pytest.mark.parametrize("bias", [0.0, 0.7])
@pytest.mark.parametrize("norm_name", ["linf", "l2", "l1"])
def test_exact_risks_are_those_of_a_simulation_with_the_steepest_perturbation(features, bias, norm_name):
    generator = np.random.default_rng(3)
    w = generator.normal(size=features.d + 1)
    classifier, radius = Linear(w, bias), 0.1
    x, y = features.sample(40_000, generator)
    step = {"linf": np.sign(w), "l2": w / np.linalg.norm(w), "l1": np.eye(len(w))[np.abs(w).argmax()] * np.sign(w)}
    moved = x - radius * y[:, None] * step[norm_name]
    simulated = (y * (moved @ w + bias) <= 0).mean()
    exact = risk(classifier, features, reach(w, norm_name, radius))
    assert abs(simulated - exact) < 4 * math.sqrt(exact * (1 - exact) / len(y))


def test_the_adversaries_of_theorem_1_stay_in_their_balls():
    x, y = BINARY.sample(100, np.random.default_rng(0))
    after_linf, after_l1 = attacked(x, y, BINARY)
    assert np.abs(after_linf - x).max() <= linf_radius(BINARY) + 1e-12
    assert np.abs(after_l1 - x).sum(axis=1).max() <= 2


def test_the_adversaries_of_theorem_1_leave_the_same_inputs_with_opposite_labels():
    """The same noise, with the labels exchanged, gives the same inputs: any classifier errs on one or the other."""
    x, y = BINARY.sample(100, np.random.default_rng(0))
    after_linf, _ = attacked(x, y, BINARY)
    noise, agrees = x[:, 1:] - BINARY.eta * y[:, None], x[:, 0] * y
    opposite = np.column_stack([agrees * -y, noise - BINARY.eta * y[:, None]])
    _, after_l1 = attacked(opposite, -y, BINARY)
    np.testing.assert_allclose(after_l1, after_linf, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("p0", [0.5, 0.8, 1.0])
def test_no_linear_classifier_is_below_the_bound_of_theorem_1(alpha, p0):
    averages = [r.average for r in mixtures(Features(200, alpha, p0), np.linspace(0, 1, 51))]
    assert min(averages) >= 0.5 - 1e-12


@pytest.mark.parametrize("y", [1, -1])
def test_the_likelihood_of_theorem_2_is_a_density(y):
    """With one weak feature and two positions it integrates to 1, for each of the two adversaries: 2 in all."""
    features = Features(1, 1.5)

    along = np.linspace(-9, 9, 361)
    z0, z1 = (axis.ravel() for axis in np.meshgrid(along, along))
    seen = theorem2.Attacked(np.column_stack([z0, z1]), np.zeros(len(z0)))
    density = np.exp(theorem2._log_likelihood(seen, y, features)) * norm.pdf(z1) * math.exp(-(features.eta**2) / 2)
    assert density.sum() * (along[1] - along[0]) ** 2 == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize("positions", [1, 3, 20])
def test_the_bayes_classifier_errs_as_often_as_it_expects(positions):
    """The adversaries that are simulated are those whose likelihoods are computed."""
    seen = theorem2._mixture(NORMAL, positions, 20_000, np.random.default_rng(1))
    plus, minus = (theorem2._log_likelihood(seen, y, NORMAL) for y in (1, -1))
    errs = (minus > plus).mean()
    expected = theorem2._bayes_errors(seen, NORMAL).mean()
    assert abs(errs - expected) < 4 * math.sqrt(0.25 / len(plus))


@pytest.mark.costly
@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_the_bound_of_theorem_2_tends_to_a_half_as_the_root_of_the_positions(alpha):
    features = Features(1000, alpha)
    missing = [(0.5 - lower_bound(features, n, 5_000).mean) * math.sqrt(n) for n in (16, 64, 256)]
    assert max(missing) < 1.1 * min(missing)


@pytest.mark.parametrize("positions", [1, 4, 30])
def test_no_classifier_of_the_paper_is_below_the_bound_of_theorem_2(positions):
    bound = lower_bound(NORMAL, positions, 20_000)
    assert bound.low <= bound.mean <= bound.high
    assert bound.low < theorem2.ignoring(NORMAL, positions)
    assert bound.low < theorem2.trusting(NORMAL, positions)


def test_the_risk_of_trusting_the_strong_feature_is_that_of_a_simulation():
    x, y = NORMAL.sample(40_000, np.random.default_rng(5))
    linf = (x[:, 0] * y - linf_radius(NORMAL) <= 0).mean()
    exchange = ((x[:, :9] * y[:, None]).min(axis=1) <= 0).mean()
    assert theorem2.trusting(NORMAL, 9) == pytest.approx((linf + exchange) / 2, abs=0.01)


def test_affine_mixtures_of_balls_are_no_stronger_than_their_union_for_linear_classifiers():
    generator = np.random.default_rng(2)
    for _ in range(50):
        classifier = Linear(generator.normal(size=BINARY.d + 1), generator.normal())
        found = linear_risks(classifier, BINARY, ("linf", 0.05), ("l1", 1.5))
        assert found.affine == pytest.approx(found.union, abs=1e-12)
        assert found.union >= max(found.one, found.two) - 1e-12


@pytest.mark.parametrize("balls", [("linf:0.1", "l1:2"), ("linf:0.1", "l2:0.5"), ("l2:0.5", "l1:2")])
def test_the_affine_threats_of_robench_reach_no_further_than_their_balls_along_a_line(balls):
    """Claim 3 for the threats that attacks use."""
    affine = parse(f"affine:{balls[0]}+{balls[1]}")
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(1, 30, generator=generator)
    parts = [parse(ball) for ball in balls]
    best = max(reach(w[0].double().numpy(), *_norm(ball)) for ball in balls)
    furthest = torch.cat([part.steepest(w) for part in parts])
    points = torch.cat([furthest, torch.randn(200, 30, generator=generator)])
    on_surface = points / affine.size(points)[:, None]
    assert float((on_surface @ w.double().T).max()) == pytest.approx(best, rel=1e-6)


def _norm(ball: str) -> tuple[str, float]:
    name, radius = ball.split(":")
    return name, float(radius)


POSITIVE = Linear(np.concatenate([[3.0], np.full(BINARY.d, 0.3)]))


@pytest.mark.parametrize("positions", [1, 2])
def test_compounding_needs_more_than_two_positions(positions):
    broken = compounded_risks(POSITIVE, NORMAL, 0.05, positions, 5_000)
    assert (broken.affine == broken.union).all()


@pytest.mark.parametrize("positions", [3, 10])
def test_compounding_is_stronger_than_the_union(positions):
    broken = compounded_risks(POSITIVE, NORMAL, 0.05, positions, 5_000)
    assert (broken.affine >= broken.union).all()
    assert (broken.affine & ~broken.union).any()


def test_the_affine_adversary_of_theorem_4_is_the_best_of_all_choices():
    """Against trying every n, every position and the exchange itself, one example at a time."""
    positions, radius = 5, 0.05
    broken = compounded_risks(POSITIVE, NORMAL, radius, positions, 300, seed=4)
    x, y = NORMAL.sample(300, np.random.default_rng(4))
    for i in range(300):
        margins = []
        for taken in range(positions + 1):
            shrunk = (1 - taken / positions) * radius
            for j in range(max(taken, 1)):
                moved = x[i].copy()
                moved[[0, j]] = moved[[j, 0]]
                margins.append(float((y[i] * moved - shrunk) @ POSITIVE.w))
        assert bool(broken.affine[i]) == (min(margins) <= 0)


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="d must be at least 1"):
        Features(0, 1.0)
    with pytest.raises(ValueError, match="alpha must be positive"):
        Features(3, math.nan)
    with pytest.raises(ValueError, match="p0 must lie between"):
        Features(3, 1.0, 0.4)
    with pytest.raises(ValueError, match="leave p0 out"):
        lower_bound(BINARY, 3, 10)
    with pytest.raises(ValueError, match="positions must lie between 1 and d \\+ 1 = 41"):
        lower_bound(NORMAL, 42, 10)
    with pytest.raises(ValueError, match="give p0"):
        attacked(*NORMAL.sample(3, np.random.default_rng(0)), NORMAL)
    with pytest.raises(ValueError, match="w_0 > w_i > 0"):
        compounded_risks(Linear(np.ones(41)), NORMAL, 0.1, 3, 10)
