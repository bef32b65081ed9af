"""JPEG's coefficients against scipy and Pillow, and the parameters that membership needs."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft

from robench.errors import UserError
from robench.problem.threats import parse
from robench.problem.threats.jpeg_codec import CHROMA, LUMA, decoded, encoded

SHAPES = [(1, 28, 28), (3, 32, 32), (2, 9, 14), (3, 5, 7)]
TEXTS = ["jpeg-linf:0.5", "jpeg-l2:1", "jpeg-l1:8"]


def images(shape, n=3, seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def random_params(threat, x, seed=1):
    """Members on the surface of the ball, as an attack has them."""
    ball, grey = threat.ball, threat.grey(x)
    return threat.params_at(ball.sample(grey, torch.randn(grey.shape, generator=torch.Generator().manual_seed(seed))))


def test_the_coefficients_of_a_block_are_its_cosine_transform_over_the_table():
    x = images((1, 8, 16))
    found = encoded(x).view(3, 2, 8, 8).numpy()
    for image, blocks in zip(255 * x[:, 0].double().numpy() - 128, found, strict=True):
        for number, block in enumerate(blocks):
            wanted = fft.dctn(image[:, 8 * number : 8 * number + 8], norm="ortho") / np.reshape(LUMA, (8, 8))
            np.testing.assert_allclose(block, wanted, atol=1e-4)


def test_colours_have_half_the_resolution_and_a_table_of_their_own():
    x = images((3, 16, 16), n=1)
    found = encoded(x)[0]
    assert len(found) == 4 * 64 + 2 * 64
    red, green, blue = 255 * x[0].double().numpy()
    for part, plane in ((found[256:320], blue), (found[320:], red)):  # JFIF: differences of blue and red to luma
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        scale = 0.5 / (1 - (0.114 if plane is blue else 0.299))
        small = (scale * (plane - luma)).reshape(8, 2, 8, 2).mean(axis=(1, 3))
        wanted = fft.dctn(small, norm="ortho") / np.reshape(CHROMA, (8, 8))
        np.testing.assert_allclose(part.view(8, 8), wanted, atol=1e-4)


def test_rounded_coefficients_give_the_image_that_pillow_saves_at_quality_50():
    # Of one hue, since Pillow enlarges colours more smoothly.
    small = images((1, 16, 16), n=1)
    grey = torch.nn.functional.interpolate(small, (32, 32), mode="bicubic").clamp(0, 1)
    for shape, x in (((1, 32, 32), grey), ((3, 32, 32), 0.5 * grey + torch.tensor([0.2, 0.1, 0.3]).view(1, 3, 1, 1))):
        x = (255 * x).round() / 255
        pixels = (255 * x[0]).round().byte().permute(1, 2, 0).numpy()
        file = BytesIO()
        Image.fromarray(pixels if shape[0] == 3 else pixels[..., 0]).save(file, "JPEG", quality=50, subsampling=2)
        wanted = np.atleast_3d(np.asarray(Image.open(file))).transpose(2, 0, 1) / 255
        made = decoded(encoded(x).round(), shape).clamp(0, 1)[0].numpy()
        assert np.abs(made - wanted).mean() < 1.5 / 255
        assert np.abs(x[0].numpy() - wanted).mean() > 2 * np.abs(made - wanted).mean()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_coefficients_give_the_image_again_but_for_the_resolution_of_its_colours(shape):
    x = images(shape)
    if shape[0] == 3:  # colours that do not change from pixel to pixel
        x = images((1, *shape[1:])) * 0.2 + torch.tensor([0.4, 0.3, 0.5]).view(1, 3, 1, 1)
    torch.testing.assert_close(decoded(encoded(x), shape), x, atol=1e-5, rtol=0)


def test_half_of_a_parameter_is_added_to_its_coefficient():
    x = torch.full((1, 1, 8, 8), 0.5)
    params = torch.zeros(1, 64)
    params[0, 8 * 2 + 3] = 0.5  # two periods down the block, three across it
    change = parse("jpeg-linf:0.5").apply(x, params) - x
    wave = np.outer(*(np.cos((2 * np.arange(8) + 1) * u * np.pi / 16) / 2 for u in (2, 3)))
    np.testing.assert_allclose(255 * change[0, 0], 0.25 * LUMA[8 * 2 + 3] * wave, atol=1e-4)


def test_the_gradient_of_an_image_is_that_of_finite_differences():
    threat, x = parse("jpeg-linf:2"), images((3, 16, 16), n=1).double() * 0.5 + 0.25
    params = random_params(threat, x).double().requires_grad_()
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (grad,) = torch.autograd.grad((weights * threat.apply(x, params)).sum(), params)
    for place in (0, 77, 255, 300, 383):
        step = torch.zeros_like(params)
        step[0, place] = 1e-6
        higher, lower = ((weights * threat.apply(x, params + sign * step)).sum() for sign in (1, -1))
        assert grad[0, place].item() == pytest.approx((higher - lower).item() / 2e-6, rel=1e-5, abs=1e-7)


# The threat models


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_is_a_member_if_its_parameters_lie_in_the_ball_and_give_it(text, shape):
    threat, x = parse(text), images(shape)
    params = random_params(threat, x)
    assert params.shape[1] == threat.n_params(shape)
    x_adv = threat.apply(x, params)
    assert threat.contains(x_adv, x, params).all()
    sizes = {"jpeg-linf": params.abs().amax(dim=1), "jpeg-l2": params.norm(dim=1), "jpeg-l1": params.abs().sum(dim=1)}
    torch.testing.assert_close(
        threat.measure(x_adv, x, params), (sizes[threat.name] / threat.r).double(), atol=1e-5, rtol=0
    )
    beyond = 1.001 * params / threat.share(params).float()[:, None]
    assert not threat.contains(threat.apply(x, beyond), x, beyond).any()
    assert not threat.contains(x_adv, x, params.roll(1, 0)).any()
    assert not threat.contains(x_adv, x, params[:, :3]).any()
    assert not threat.contains(x_adv, x).any()
    assert not threat.contains((255 * x_adv).round() / 255, x, params).any(), "rounded to 8 bits"


@pytest.mark.parametrize("text", ["jpeg-l2:1000", "jpeg-l1:1000"])
def test_no_parameter_is_larger_than_two_however_large_the_radius(text):
    threat, x = parse(text), images((1, 16, 16))
    params = torch.zeros(3, 256)
    params[:, 5] = torch.tensor([2.0, 2.01, -2.5])
    assert threat.contains(threat.apply(x, params), x, params).tolist() == [True, False, False]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e6, -1e6])
def test_parameters_that_are_no_numbers_or_beyond_all_limits_are_refused(text, value):
    threat, x = parse(text), images((1, 8, 8), n=1)
    params = torch.zeros(1, 64)
    params[0, 7] = value
    for x_adv in (x, threat.apply(x, params), threat.apply(x, params).nan_to_num()):
        assert not threat.contains(x_adv, x, params).any()


@pytest.mark.parametrize("name", ["jpeg-linf", "jpeg-l2", "jpeg-l1"])
def test_a_text_reads_back_and_others_are_refused_in_one_sentence(name):
    for number in ("0.125", "8/255", "64"):
        assert str(parse(f"{name}:{number}")) == f"{name}:{number}"
    for text in ("", "x", "0", "-1", "1e20", "2000000", "1e-13", "1,2", "nan", "9" * 200, "1/0"):
        with pytest.raises(UserError, match=f"like {name}") as refused:
            parse(f"{name}:{text}")
        assert "\n" not in str(refused.value)
