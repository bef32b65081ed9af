"""The best member for a linear loss and the distance of a hyperplane, by exhaustive and numeric maximisation."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robench.problem.threats import parse

laws = settings(deadline=None, max_examples=25, derandomize=True)
RADII = ["linf:0.05", "linf:0.6", "l2:0.3", "l2:3", "l1:0.4", "l1:4", "l0:1", "l0:5"]


@st.composite
def cases(draw):
    """Images with pixels at exactly 0 and 1, and gradients that span ten powers of ten, with zeros and ties."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.rand(4, 2, 3, 3, generator=g)
    x = torch.where(torch.rand(x.shape, generator=g) < draw(st.sampled_from([0.0, 0.5, 1.0])), x.round(), x)
    grad = torch.randn(x.shape, generator=g)
    kind = draw(st.sampled_from(["plain", "spread", "ties", "zeros"]))
    if kind == "spread":
        grad = grad * 10 ** (10 * torch.rand(x.shape, generator=g) - 8)
    if kind == "ties":
        grad = grad.sign()
    if kind == "zeros":
        grad = grad * (torch.rand(x.shape, generator=g) < 0.3)
    return x, grad


def gain(grad, delta):
    return (grad.double() * delta.double()).flatten(1).sum(dim=1)


@pytest.mark.parametrize("text", RADII)
@laws
@given(case=cases())
def test_the_vertex_is_a_member(text, case):
    threat, (x, grad) = parse(text), case
    assert threat.contains(x + threat.vertex(grad, x), x).all()


@pytest.mark.costly
@pytest.mark.parametrize("text", RADII)
@laws
@given(case=cases(), seed=st.integers(0, 2**31))
def test_no_member_gains_more_than_the_vertex(text, case, seed):
    threat, (x, grad) = parse(text), case
    best = gain(grad, threat.vertex(grad, x))
    g = torch.Generator().manual_seed(seed)
    for scale in (0.1, 1.0, 10.0):
        for direction in (grad, torch.randn(x.shape, generator=g), grad + 0.1 * torch.randn(x.shape, generator=g)):
            other = gain(grad, threat.nearest(scale * direction, x))
            assert (other <= best + 1e-5 * best.abs() + 1e-9).all()


@pytest.mark.costly
@pytest.mark.parametrize("text", ["linf:0.3", "l2:0.6", "l1:0.8"])
@laws
@given(case=cases())
def test_projected_ascent_converges_to_the_gain_of_the_vertex(text, case):
    """A linear function on a convex set: ascent with the Euclidean projection has a single summit."""
    threat, (x, grad) = parse(text), case
    grad = grad / grad.flatten(1).abs().amax(dim=1).clamp(min=1e-12)[:, None, None, None]
    delta = torch.zeros_like(x)
    for step in (1.0,) * 30 + (10.0,) * 30 + (100.0,) * 30:
        delta = threat.nearest(delta + step * grad, x)
    best = gain(grad, threat.vertex(grad, x))
    torch.testing.assert_close(gain(grad, delta), best, rtol=2e-3, atol=1e-4)


def test_the_vertex_of_l0_is_the_best_of_all_choices_of_pixels():
    g = torch.Generator().manual_seed(0)
    x, grad = torch.rand(6, 2, 2, 3, generator=g), torch.randn(6, 2, 2, 3, generator=g)
    edge = torch.where(grad > 0, 1 - x, -x)
    for radius in (1, 2, 4):
        choices = [c for c in product([0.0, 1.0], repeat=6) if sum(c) <= radius]
        gains = [gain(grad, edge * torch.tensor(c).view(1, 1, 2, 3)) for c in choices]
        best = torch.stack(gains).amax(dim=0)
        torch.testing.assert_close(gain(grad, parse(f"l0:{radius}").vertex(grad, x)), best)


def test_l0_reaches_a_hyperplane_with_the_fewest_pixels_of_all_choices():
    g = torch.Generator().manual_seed(1)
    x, grad = torch.rand(6, 2, 2, 3, generator=g), torch.randn(6, 2, 2, 3, generator=g)
    edge = torch.where(grad > 0, 1 - x, -x)
    threat = parse("l0:1")
    for share in (0.2, 0.5, 0.9, 1.5):
        need = share * gain(grad, edge)
        size = threat.size(threat.to_hyperplane(x, grad, -need.float()))
        choices = [torch.tensor(c) for c in product([0.0, 1.0], repeat=6)]
        for row in range(len(x)):
            sufficient = [c.sum() for c in choices if gain(grad, edge * c.view(1, 1, 2, 3))[row] >= need[row] - 1e-6]
            assert size[row] == (min(sufficient) if sufficient else 6)


@pytest.mark.parametrize("text", RADII)
def test_no_gradient_leads_nowhere(text):
    x = torch.rand(2, 1, 3, 3)
    assert (parse(text).vertex(torch.zeros_like(x), x) == 0).all()
