"""Transforms projected onto an l2 ball: the closed form, and the parameters that membership needs."""

import pytest
import torch

from robench.errors import UserError
from robench.problem.threats import parse


def images(shape, n=6, seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def transforms(n=6, seed=1):
    return (2 * torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) - 1) * torch.tensor([3.0, 3.0, 30.0])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 9, 14)], ids=str)
@pytest.mark.parametrize("padding", ["", ",pad4"])
def test_the_change_of_a_transform_is_shortened_to_the_radius(shape, padding):
    x, params, r = images(shape), transforms(), 3.0
    params[0] *= 0.001  # so small a transform needs no projection
    threat = parse(f"rt-l2:3px,30deg{padding}+l2:3")
    change = parse(f"rt:3px,30deg{padding}").apply(x, params) - x
    length = change.flatten(1).norm(dim=1)
    assert length[0] < r < length[1:].amin()
    wanted = x + change * (r / length).clamp(max=1)[:, None, None, None]
    x_adv = threat.apply(x, params)
    torch.testing.assert_close(x_adv, wanted, atol=1e-5, rtol=0)
    assert threat.contains(x_adv, x, params).all()
    assert parse("l2:3").contains(x_adv, x).all()
    assert threat.contains(x, x).all()
    torch.testing.assert_close(threat.measure(x_adv, x, params), parse("rt:3px,30deg").share(params))


def test_an_image_that_its_parameters_do_not_give_is_no_member():
    threat, x, params = parse("rt-l2:3px,30deg+l2:3"), images((1, 28, 28)), transforms()
    x_adv = threat.apply(x, params)
    assert not threat.contains(x_adv, x).any()
    assert not threat.contains(x_adv, x, params.roll(1, 0)).any()
    assert not threat.contains(parse("rt:3px,30deg").apply(x, params), x, params).any(), "not projected"
    halfway = (x + x_adv) / 2
    assert not threat.contains(halfway, x, params).any()
    beyond = params * 1.01 / parse("rt:3px,30deg").share(params).float()[:, None]
    assert not threat.contains(threat.apply(x, beyond), x, beyond).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6, -1e6])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_parameters_that_are_no_numbers_or_beyond_the_limits_are_refused(value, place):
    threat, x = parse("rt-l2:3px,30deg+l2:3"), images((1, 8, 8), n=1)
    params = torch.zeros(1, 3)
    params[0, place] = value
    for x_adv in (x, threat.apply(x, params), threat.apply(x, params).nan_to_num()):
        assert not threat.contains(x_adv, x, params).any()


def test_a_text_reads_back_and_others_are_refused_in_one_sentence():
    for text in ("rt-l2:3px,30deg+l2:0.5", "rt-l2:3px,30deg,pad16+l2:128/255", "rt-l2:0px,5deg+l2:1"):
        assert str(parse(text)) == text
    for text in ("", "3px,30deg", "3px,30deg+l1:5", "3px,30deg+l2:", "3px,30deg+l2:0.5+l2:1", "l2:0.5+3px,30deg"):
        with pytest.raises(UserError, match=r"like rt-l2:3px,30deg\+l2:0\.5"):
            parse(f"rt-l2:{text}")
    for text in ("0px,0deg+l2:1", "3px,30deg+l2:0", "3px,200deg+l2:1"):
        with pytest.raises(UserError) as refused:
            parse(f"rt-l2:{text}")
        assert "\n" not in str(refused.value)
