"""Proximal operators: by their optimality conditions, by hand, and against a numeric minimisation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robench.problem.threats import parse

NORMS = ["linf:1", "l2:1", "l1:1"]
laws = settings(deadline=None, max_examples=25, derandomize=True)


@st.composite
def cases(draw):
    """Deltas, weights from nothing to far too much, and metrics that span up to eight powers of ten."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    delta = torch.randn(5, 2, 3, 4, generator=g)
    spread = draw(st.sampled_from([0.0, 2.0, 8.0]))
    metric = 10 ** (spread * (torch.rand(delta.shape, generator=g) - 1))
    return delta, draw(st.sampled_from([1e-6, 0.01, 0.3, 3.0, 100.0])) * torch.rand(5, generator=g), metric


def objective(threat, z, delta, weight, metric):
    return (metric.double() * (z - delta).double().square()).flatten(1).sum(dim=1) / 2 + weight * threat.size(
        z.double()
    )


@pytest.mark.parametrize("text", NORMS)
@laws
@given(case=cases(), seed=st.integers(0, 2**31))
def test_no_point_nearby_or_far_has_a_smaller_objective(text, case, seed):
    """The objective is convex: a point with no better neighbour in any direction is the minimiser."""
    threat, (delta, weight, metric) = parse(text), case
    z = threat.proximal(delta, weight, metric)
    best = objective(threat, z, delta, weight, metric)
    g = torch.Generator().manual_seed(seed)
    others = [delta, torch.zeros_like(delta), 0.5 * (z + delta), 0.99 * z, 1.01 * z]
    others += [z + scale * torch.randn(z.shape, generator=g) for scale in (1e-3, 1e-2, 0.1)]
    others += [z + 0.01 * torch.randn(z.shape, generator=g) * (torch.rand(z.shape, generator=g) < 0.1)]
    for other in others:
        value = objective(threat, other, delta, weight, metric)
        assert (best <= value + 1e-6 * value + 1e-9).all()


@pytest.mark.costly
@pytest.mark.parametrize("text", NORMS)
@pytest.mark.parametrize("weight", [0.05, 0.5, 2.0])
def test_it_agrees_with_a_numeric_minimisation(text, weight):
    threat = parse(text)
    g = torch.Generator().manual_seed(0)
    delta, metric = torch.randn(1, 1, 2, 3, generator=g), 0.2 + torch.rand(1, 1, 2, 3, generator=g)
    z = threat.proximal(delta, torch.tensor([weight]), metric)
    free = delta.double().clone().requires_grad_()
    descent = torch.optim.Adam([free], lr=0.01)
    lowest = torch.inf
    for step in range(800):
        descent.param_groups[0]["lr"] = 0.03 * 0.99**step
        value = objective(threat, free, delta, weight, metric).sum()
        (free.grad,) = torch.autograd.grad(value, free)
        descent.step()
        lowest = min(lowest, value.item())
    best = objective(threat, z, delta, weight, metric).item()
    assert best <= lowest + 1e-9
    assert best == pytest.approx(lowest, rel=1e-2)


def test_the_operators_by_hand():
    delta = torch.tensor([[3.0, -1.0, 0.25]])
    one, weight = torch.ones_like(delta), torch.tensor([0.5])
    assert parse("l1:1").proximal(delta, weight, one).tolist() == [[2.5, -0.5, 0.0]]
    assert parse("linf:1").proximal(delta, weight, one).tolist() == [[2.5, -1.0, 0.25]]
    length = delta.norm()
    torch.testing.assert_close(parse("l2:1").proximal(delta, weight, one), delta * (1 - 0.5 / length))
    assert parse("l1:1").proximal(delta, weight, torch.tensor([[1.0, 1.0, 4.0]])).tolist() == [[2.5, -0.5, 0.125]]


@pytest.mark.parametrize("text", NORMS)
def test_no_weight_changes_nothing_and_too_much_leaves_nothing(text):
    delta, metric = torch.randn(3, 1, 4, 4), 0.1 + torch.rand(3, 1, 4, 4)
    torch.testing.assert_close(parse(text).proximal(delta, torch.zeros(3), metric), delta)
    assert (parse(text).proximal(delta, torch.full((3,), 1e3), metric) == 0).all()


def test_every_result_lies_between_0_and_the_delta():
    delta, metric = torch.randn(8, 1, 4, 4), 0.1 + torch.rand(8, 1, 4, 4)
    for text in NORMS:
        z = parse(text).proximal(delta, torch.rand(8), metric)
        assert (z * delta >= 0).all()
        assert (z.abs() <= delta.abs() + 1e-6).all()


def test_a_count_of_pixels_has_none():
    with pytest.raises(NotImplementedError, match="l0 has no proximal operator"):
        parse("l0:1").proximal(torch.zeros(1, 4), torch.zeros(1), torch.ones(1, 4))
