"""What the texts of threats say about which set contains which, beside the threat models themselves."""

from fractions import Fraction
from itertools import permutations

import pytest
import torch

from robench.evidence.nesting import lies_in, share_of_limits
from robench.problem.threats import RT, RTL2, AffineBalls, AffineRT, Ball, Corruption, ParamBall, Patch, parse

THREATS = (
    *("linf:0.2", "linf:0.3", "l2:0.2", "l0:3", "elastic:1", "elastic:2"),
    *("jpeg-linf:1", "jpeg-linf:2", "jpeg-l2:1", "jpeg-l2:8", "jpeg-l2:16", "jpeg-l1:8"),
    *("patch:3px", "patch:4px", "rt:2px,10deg", "rt:3px,30deg", "rt:2px,40deg", "rt:2px,10deg,pad4"),
    *("rt-l2:2px,10deg+l2:1", "rt-l2:3px,10deg+l2:1", "rt-l2:3px,10deg+l2:2", "rt-l2:3px,10deg,pad4+l2:1"),
    *("affine:linf:0.3+rt:3px,30deg", "affine:linf:0.3+rt:3px,20deg", "affine:linf:0.2+rt:4px,20deg"),
    *("affine:linf:0.3+l1:3", "affine:l1:4+linf:0.3", "affine:linf:0.3+l2:4"),
    *(
        "corruption:fog@3",
        "corruption:fog@5",
        "corruption:fog@2-5",
        "corruption:fog@1-5",
        "corruption:fog+contrast@3",
        "corruption:all@3-4",
    ),
)
NESTED = {
    *(("linf:0.2", "linf:0.3"), ("elastic:1", "elastic:2"), ("jpeg-linf:1", "jpeg-linf:2"), ("patch:3px", "patch:4px")),
    *(("jpeg-l2:1", "jpeg-l2:8"), ("jpeg-l2:1", "jpeg-l2:16"), ("jpeg-l2:8", "jpeg-l2:16")),
    *(("rt:2px,10deg", "rt:3px,30deg"), ("rt:2px,10deg", "rt:2px,40deg")),
    ("rt-l2:2px,10deg+l2:1", "rt-l2:3px,10deg+l2:1"),
    ("affine:linf:0.3+rt:3px,20deg", "affine:linf:0.3+rt:3px,30deg"),
    ("affine:linf:0.3+l1:3", "affine:l1:4+linf:0.3"),
    *(("corruption:fog@3", "corruption:fog@2-5"), ("corruption:fog@5", "corruption:fog@2-5")),
    *(("corruption:fog@3", "corruption:fog+contrast@3"), ("corruption:fog@3", "corruption:all@3-4")),
    ("corruption:fog+contrast@3", "corruption:all@3-4"),
    *((f"corruption:fog@{severities}", "corruption:fog@1-5") for severities in ("3", "5", "2-5")),
}


def test_a_set_lies_in_itself_and_in_the_larger_sets_of_its_kind():
    assert all(lies_in(threat, 0.9, threat) for threat in THREATS)
    assert {(inner, outer) for inner, outer in permutations(THREATS, 2) if lies_in(inner, 0.9, outer)} == NESTED


def test_a_small_image_of_a_larger_ball_lies_in_the_smaller_where_sizes_are_distances():
    found = {(inner, outer) for inner, outer in permutations(THREATS, 2) if lies_in(inner, 0.15, outer)}
    assert found - NESTED == {("linf:0.3", "linf:0.2")}
    assert lies_in("linf:0.5", 0.25, "linf:0.25"), "at the limit"
    assert not lies_in("linf:0.5", 0.2500001, "linf:0.25")


@pytest.mark.parametrize(("inner", "outer"), sorted(NESTED))
def test_a_member_of_the_inner_set_is_one_of_the_outer_with_a_size_that_the_limits_bound(inner, outer):
    x = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    x_adv, params = members(inner, x)
    small, large = parse(inner), parse(outer)
    assert small.contains(x_adv, x, params).all()
    assert large.contains(x_adv, x, params).all()
    size = large.measure(x_adv, x, params)
    assert (size <= small.measure(x_adv, x, params) * share_of_limits(inner, outer) + 1e-6).all()


def members(text, x):
    """Images at the limit of a threat, and their parameters."""
    threat, noise = parse(text), torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    if isinstance(threat, Ball):
        return x + threat.sample(x, noise), None
    if isinstance(threat, Patch):
        x_adv = x.clone()
        x_adv[..., 2 : 2 + threat.side, 5 : 5 + threat.side] = 0.5
        return x_adv, None
    if isinstance(threat, AffineBalls):
        return x + threat.project(threat.one.sample(x, noise) + threat.two.sample(x, noise.flip(0)), x), None
    if isinstance(threat, AffineRT):
        params = 0.4 * threat.rt.limits(x).expand(len(x), 3)
        moved = threat.rt.apply(x, params)
        return moved + 0.6 * threat.ball.sample(moved, noise), params
    if isinstance(threat, Corruption):
        number, severity = threat.images[0]
        params = torch.tensor([float(number), float(severity), 0.0]).expand(len(x), 3)
    elif isinstance(threat, RT | RTL2):
        params = threat.limits(x).expand(len(x), 3) * torch.tensor([1.0, -0.5, 1.0])
    else:
        assert isinstance(threat, ParamBall)
        params = torch.randn(len(x), threat.n_params(x.shape[1:]), generator=torch.Generator().manual_seed(2))
        params = params * (0.9 * threat.r / threat.norm(threat.radius).size(params))[:, None]
        params[0] = 0
        params[0, 0] = float(min(threat.radius, threat.peak))  # the largest that one parameter may be
    return threat.apply(x, params), params


def test_sizes_are_shares_of_the_limits_except_those_that_are_distances():
    assert share_of_limits("rt:0px,10deg", "rt:0px,40deg") == 0.25
    assert share_of_limits("rt:1px,10deg", "rt:4px,20deg") == 0.5
    assert share_of_limits("elastic:1", "elastic:4") == float(Fraction(1, 4))
    assert share_of_limits("linf:0.1", "linf:0.4") == 1.0, "a distance"
    assert share_of_limits("corruption:fog@3", "corruption:all@1-4") == 0.75
    assert share_of_limits("affine:linf:0.1+l1:3", "affine:l1:4+linf:0.2") == 0.75


NO_THREATS = (
    *("", "linf", "linf:", "linf:x", "linf:1e99", "patch:px", "rt:1px", "rt:apx,bdeg"),
    *("affine:x+y", "affine:linf:0.2+linf", "rt-l2:x+l2:1", "corruption:fog", "corruption:@3-5", "corruption:fog@0"),
    *("corruption:fog@5-1", "affine:linf:x+l1:3", "affine:linf:x+l1:4", "affine:linf:0.1+l1:x"),
    *("elastic:-5", "rt:-1px,10deg"),
)


@pytest.mark.parametrize("text", NO_THREATS)
def test_a_text_that_is_no_threat_contains_nothing_else(text):
    assert lies_in(text, 0.1, text)
    others = {*THREATS, *NO_THREATS} - {text}
    assert not any(lies_in(text, 0.1, other) or lies_in(other, 0.1, text) for other in others)
