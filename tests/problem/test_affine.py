"""The gauge of a convex hull of two balls by another road, and mixtures with rotations."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize_scalar

from robench.errors import UserError
from robench.problem.threats import parse

PAIRS = ["affine:linf:0.3+l1:2", "affine:linf:0.1+l1:0.85", "affine:linf:0.2+l2:0.5", "affine:l2:0.7+l1:1.3"]


def deltas(n=20, d=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    sparse = torch.rand(n, d, generator=g) < torch.tensor([0.2, 0.5, 1.0, 1.0]).repeat(n // 4)[:, None]
    return (torch.randn(n, d, generator=g) * sparse).view(n, 1, 3, d // 3).double()


def gauge(threat, delta):
    """The least of |r1| / radius1 + |r2| / radius2 over r1 + r2 = delta, by a solver that knows nothing of it."""
    delta, (one, two) = delta.flatten().abs().numpy(), threat.parts
    if {one.name, two.name} == {"linf", "l1"}:
        n, linf = len(delta), one if one.name == "linf" else two
        l1 = two if one.name == "linf" else one
        # minimise t / linf + sum(s) / l1 with |delta| - s <= t: variables s, t
        cost = np.append(np.full(n, 1 / l1.r), 1 / linf.r)
        rows = np.hstack([-np.eye(n), -np.ones((n, 1))])
        return linprog(cost, A_ub=rows, b_ub=-delta).fun

    def value(t):  # for the part that is cut at t, the other takes the rest
        low, rest = np.minimum(delta, t), np.maximum(delta - t, 0)
        return np.abs(low).max() / one.r + np.linalg.norm(rest) / two.r

    if {one.name, two.name} == {"linf", "l2"}:
        return min(
            minimize_scalar(value, bounds=(0, delta.max()), method="bounded", options={"xatol": 1e-12}).fun,
            value(0),
            value(delta.max()),
        )
    t = np.linspace(0, delta.max(), 20001)[:, None]  # l2 and l1: the l1 part takes what exceeds t
    low, rest = np.minimum(delta, t), np.maximum(delta - t, 0)
    return (np.linalg.norm(low, axis=1) / one.r + rest.sum(axis=1) / two.r).min()


@pytest.mark.parametrize("text", PAIRS)
def test_the_size_is_the_gauge_of_the_hull(text):
    threat = parse(text)
    for delta, size in zip(deltas(), threat.size(deltas()).tolist(), strict=True):
        assert size == pytest.approx(gauge(threat, delta), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("text", PAIRS)
def test_members_of_either_ball_and_their_mixtures_are_members(text):
    threat = parse(text)
    x = torch.full((20, 1, 3, 4), 0.5)
    one, two = (part.project(deltas(seed=s).float(), x) for part, s in zip(threat.parts, (1, 2), strict=True))
    for beta in (0.0, 0.3, 0.9, 1.0):
        x_adv = x + beta * one + (1 - beta) * two
        assert threat.contains(x_adv, x).all()
    assert (threat.size(one) > 0.9).any(), "the mixtures must reach the surface somewhere"
    outside = x + (1.01 / threat.size(one)).view(-1, 1, 1, 1).float() * one
    assert not (threat.contains(outside, x) & (threat.size(outside - x) > 1.001)).any()


@pytest.mark.parametrize("text", PAIRS)
def test_projection_lands_inside_and_leaves_members_alone(text):
    threat = parse(text)
    x = torch.rand(20, 1, 3, 4, generator=torch.Generator().manual_seed(5)).round()
    member = threat.project(3 * deltas(seed=4).float(), x)
    assert threat.contains(x + member, x).all()
    torch.testing.assert_close(threat.project(member, x), member, atol=1e-6, rtol=0)


def test_a_mixture_with_a_rotation_spends_one_budget_on_both():
    threat = parse("affine:linf:0.2+rt:2px,20deg")
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    params = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 10.0], [0.0, 0.0, 0.0], [2.0, 2.0, 20.0]])  # shares 0.5 .5 0 1
    moved = threat.rt.apply(x, params)
    rest = 0.2 * torch.tensor([0.5, 0.5, 1.0, 0.0]).view(-1, 1, 1, 1)
    inward = torch.where(moved > 0.5, -1.0, 1.0)
    assert threat.contains(moved + rest * inward, x, params).all()
    assert not threat.contains(moved + (rest + 0.004) * inward, x, params).any()
    torch.testing.assert_close(
        threat.measure(moved + rest * inward, x, params), torch.ones(4).double(), atol=1e-5, rtol=0
    )


def test_the_text_reads_back():
    for text in [*PAIRS, "affine:linf:8/255+rt:3px,30deg", "affine:l2:0.5+rt:3px,30deg,pad16"]:
        assert str(parse(text)) == text
    assert str(parse("affine:rt:3px,30deg+linf:0.3")) == "affine:linf:0.3+rt:3px,30deg"


@pytest.mark.parametrize("text", ["affine:linf:0.3", "affine:", "affine:linf:0.3+l0:3", "affine:linf:x+l1:1",
                                  "affine:linf:0.1+linf:0.2", "affine:rt:3px,30deg+rt:3px,30deg"])  # fmt: skip
def test_mixtures_that_mean_nothing_are_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"affine:linf:0\.3\+l1:10"):
        parse(text)
