"""Elastic flows against scipy, and the parameters that membership needs."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from robench.errors import UserError
from robench.problem.threats import parse
from robench.problem.threats.elastic import smoothed

SHAPES = [(1, 28, 28), (3, 32, 32), (2, 9, 14), (3, 1, 5)]


def images(shape, n=3, seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def flows(threat, shape, n=3, seed=1):
    noise = torch.rand(n, 2 * shape[1] * shape[2], generator=torch.Generator().manual_seed(seed))
    return threat.r * (2 * noise - 1)


@pytest.mark.parametrize(("length", "reach"), [(32, 2), (28, 2), (224, 12)])
def test_a_flow_is_smoothed_by_the_kernel_of_the_paper(length, reach):
    flow = torch.zeros(1, 2, length, length)
    flow[0, 0, length // 2, length // 2] = 1
    spread = smoothed(flow)[0].numpy()
    assert not spread[1].any()
    line = spread[0].sum(axis=0)
    assert (np.flatnonzero(line > 1e-12) == np.arange(length // 2 - reach, length // 2 + reach + 1)).all()
    assert line[length // 2 + 1] / line[length // 2] == pytest.approx(np.exp(-((224 / length / 3) ** 2) / 2), rel=1e-4)
    assert line.sum() == pytest.approx(1)
    uneven = torch.rand(1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = ndimage.gaussian_filter(uneven[0, 0].double().numpy(), 3 * 32 / 224, mode="mirror", radius=2)
    np.testing.assert_allclose(smoothed(uneven)[0, 0], wanted, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_pixel_is_interpolated_at_its_place_plus_the_smooth_flow(shape):
    threat, x = parse("elastic:2"), images(shape)
    params = flows(threat, shape)
    moved, flow = threat.apply(x, params), smoothed(params.view(3, 2, *shape[1:])).double().numpy()
    down, across = np.mgrid[: shape[1], : shape[2]]
    for number, image in enumerate(x.double().numpy()):
        places = [down + flow[number, 1], across + flow[number, 0]]
        wanted = [ndimage.map_coordinates(channel, places, order=1, mode="grid-constant") for channel in image]
        np.testing.assert_allclose(moved[number], wanted, atol=1e-5)


def test_a_flow_of_one_pixel_shifts_the_image_and_none_leaves_it():
    threat, x = parse("elastic:1"), images((1, 6, 6))
    params = torch.cat([torch.ones(3, 36), torch.zeros(3, 36)], dim=1)
    torch.testing.assert_close(threat.apply(x, params)[..., :-1], x[..., 1:], atol=1e-5, rtol=0)
    assert threat.apply(x, params)[..., -1].amax() < 1e-5
    assert threat.contains(threat.apply(x, params), x, params).all()
    assert threat.contains(x, x, torch.zeros(3, 72)).all()
    assert threat.contains(x, x).all()


def test_the_gradient_of_an_image_is_that_of_finite_differences():
    threat, x = parse("elastic:2"), images((3, 8, 8), n=1).double()
    params = flows(threat, (3, 8, 8), n=1).double().requires_grad_()
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (grad,) = torch.autograd.grad((weights * threat.apply(x, params)).sum(), params)
    for place in (0, 27, 63, 64, 100, 127):
        step = torch.zeros_like(params)
        step[0, place] = 1e-7
        higher, lower = ((weights * threat.apply(x, params + sign * step)).sum() for sign in (1, -1))
        assert grad[0, place].item() == pytest.approx((higher - lower).item() / 2e-7, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_is_a_member_if_its_flow_is_short_and_gives_it(shape):
    threat, x = parse("elastic:0.5"), images(shape)
    params = flows(threat, shape)
    params[:, 0] = 0.5
    x_adv = threat.apply(x, params)
    assert threat.contains(x_adv, x, params).all()
    assert threat.measure(x_adv, x, params).tolist() == [1] * 3
    assert not threat.contains(threat.apply(x, 1.001 * params), x, 1.001 * params).any()
    assert not threat.contains(x_adv, x, params.roll(1, 0)).any()
    assert not threat.contains(x_adv, x, params[:, :3]).any()
    assert not threat.contains(x_adv, x).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e6, -1e6])
def test_flows_that_are_no_numbers_or_beyond_all_limits_are_refused(value):
    threat, x = parse("elastic:0.5"), images((1, 8, 8), n=1)
    params = torch.zeros(1, 128)
    params[0, 7] = value
    for x_adv in (x, threat.apply(x, params), threat.apply(x, params).nan_to_num()):
        assert not threat.contains(x_adv, x, params).any()


def test_a_text_reads_back_and_others_are_refused_in_one_sentence():
    assert str(parse("elastic:1/8")) == "elastic:0.125"
    assert parse("elastic:0.5px") == parse("elastic:0.5")
    for text in ("", "x", "0", "-1", "1e20", "2000000", "px", "nan", "9" * 200):
        with pytest.raises(UserError, match=r"like elastic:0\.5") as refused:
            parse(f"elastic:{text}")
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="--resize"):
        parse("elastic:0.5").refuse_unfit((3, 257, 256))
