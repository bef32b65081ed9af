"""Common corruptions by hand and by Pillow and scipy, and the parameters that membership needs."""

import colorsys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from robench.errors import UserError
from robench.problem.threats import Corruption, parse
from robench.problem.threats.corruption import AVAILABLE
from robench.problem.threats.corruptions import NAMES, blur, corrupted, digital, weather
from robench.problem.threats.corruptions.arrays import Noise, enlarged

SHAPES = [(3, 32, 32), (1, 28, 28), (2, 9, 14), (3, 3, 3)]


def images(shape=(3, 32, 32), n=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)) / 255


def noise_of(x, name="fog", severity=1):
    return Noise(x, name, severity)


@pytest.mark.costly
@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_has_the_same_corruption_in_any_batch_and_another_at_another_severity(name, shape):
    x = images(shape)
    made = [corrupted(x, name, severity) for severity in (1, 5)]
    for severity, whole in zip((1, 5), made, strict=True):
        assert whole.shape == x.shape
        assert np.isfinite(whole).all()
        assert whole.min() >= 0
        assert whole.max() <= 1
        np.testing.assert_allclose(whole * 255, np.round(whole * 255), atol=1e-9)
        np.testing.assert_array_equal(corrupted(x[[2]], name, severity), whole[[2]])
        np.testing.assert_array_equal(corrupted(x.astype(np.float32).astype(float), name, severity), whole)
    assert (made[0] != made[1]).any()


@pytest.mark.parametrize(
    ("name", "severity", "variance"),
    [("gaussian_noise", 1, 0.04**2), ("gaussian_noise", 5, 0.1**2), ("shot_noise", 1, 0.5 / 500)],
)
def test_noise_has_the_mean_and_the_variance_of_the_paper(name, severity, variance):
    change = corrupted(np.full((1, 3, 96, 96), 128 / 255), name, severity) - 128 / 255 + 0.5 / 255  # rounded down
    assert abs(change.mean()) < 4 * (variance / change.size) ** 0.5
    assert change.var() == pytest.approx(variance + 1 / 12 / 255**2, rel=0.05)


def test_impulses_are_black_or_white_as_often_as_the_paper_has_them():
    x = np.full((1, 1, 200, 200), 128 / 255)
    values, counts = np.unique(corrupted(x, "impulse_noise", 5), return_counts=True)
    np.testing.assert_array_equal(values, [0, 128 / 255, 1])
    assert counts[[0, 2]] == pytest.approx([0.035 * 200**2] * 2, rel=0.1)


def test_noise_of_two_images_and_of_two_corruptions_is_independent():
    x = images(n=2)
    one, other = noise_of(x).normal(1000)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
    assert abs(np.corrcoef(one, noise_of(x, "snow").normal(1000)[0])[0, 1]) < 0.1
    assert abs(np.corrcoef(one, noise_of(x, "fog", 2).normal(1000)[0])[0, 1]) < 0.1


def test_defocus_averages_over_a_softened_disk():
    point = np.zeros((1, 1, 9, 9))
    point[..., 4, 4] = 1
    spread = blur.defocus_blur(point, 4, noise_of(point))[0, 0]  # radius 1: five pixels; softened by almost nothing
    cross = np.zeros((9, 9))
    cross[4, 3:6] = cross[3:6, 4] = 0.2
    np.testing.assert_allclose(spread, cross, atol=1e-5)
    spread = blur.defocus_blur(point, 1, noise_of(point))[0, 0]  # radius 0.3: one pixel, softened
    side = np.exp(-1 / (2 * 0.4**2))
    assert spread[4, 5] / spread[4, 4] == pytest.approx(side)
    assert spread.sum() == pytest.approx(1)


@pytest.mark.parametrize(("degrees", "step"), [(0.0, (0, 1)), (45.0, (1, 1)), (-90.0, (-1, 0))])
def test_motion_smears_half_a_gaussian_along_its_direction(degrees, step):
    point = np.zeros((1, 1, 41, 41))
    point[..., 20, 20] = 1
    spread = blur.smeared(point, 6, 2.0, np.array([degrees]))[0, 0]
    weights = np.exp(-(np.arange(13) ** 2) / 8)
    length = 1 if degrees != 45 else 2**0.5
    taps = {}
    for i, weight in enumerate(weights / weights.sum()):  # a pixel takes what lies so far along, so light goes back
        way = int(np.ceil(i / length - 0.5))
        taps[way] = taps.get(way, 0) + weight
    for way, weight in taps.items():
        assert spread[20 - way * step[0], 20 - way * step[1]] == pytest.approx(weight, abs=0.6 / 255)
    assert spread.sum() == pytest.approx(1, abs=13 / 255)


def test_glass_moves_each_pixel_by_at_most_one_before_it_smooths():
    x = np.arange(81.0).reshape(1, 1, 9, 9) / 255
    moved = np.round(blur.glass_blur(x, 1, noise_of(x, "glass_blur"))[0, 0] * 255)  # a sigma of 0.05 smooths nothing
    before = np.round(x[0, 0] * 255)
    np.testing.assert_array_equal(moved[:2], before[:2])
    for row in range(2, 9):
        for column in range(2, 9):
            assert moved[row, column] in before[row - 1 : row + 1, column - 1 : column + 1]
    assert (moved != before).mean() > 0.3


def test_zoom_averages_the_image_and_its_enlarged_middles():
    x = images((3, 10, 10), n=1)
    np.testing.assert_allclose(enlarged(x, 1.0), x)
    twice = ndimage.zoom(x[0, 0, 2:7, 2:7], 2.0, order=1)
    np.testing.assert_allclose(enlarged(x, 2.0)[0, 0], twice)
    factors = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06]
    mean = (x + sum(enlarged(x, factor) for factor in factors)) / 8
    np.testing.assert_allclose(blur.zoom_blur(x, 1, noise_of(x)), mean)


def test_fog_is_a_fractal_cloud_scaled_to_the_brightest_pixel():
    x = images((3, 28, 28)) * 0.9
    noise = noise_of(x)
    cloud = weather.fractal(28, 3.0, noise)
    assert cloud.shape == (4, 32, 32)
    np.testing.assert_allclose((cloud.min(axis=(1, 2)), cloud.max(axis=(1, 2))), [[0] * 4, [1] * 4])
    peak = x.max(axis=(1, 2, 3), keepdims=True)
    foggy = (x + 0.2 * cloud[:, None, :28, :28]) * peak / (peak + 0.2)
    np.testing.assert_allclose(weather.fog(x, 1, noise), foggy)
    slow, fast = (np.abs(np.diff(weather.fractal(32, decay, noise))).mean() for decay in (3.0, 1.75))
    assert fast > 1.5 * slow, "noise that decays less makes a rougher cloud"


def test_brightness_raises_the_value_of_hue_saturation_and_value():
    x = images((3, 4, 4), n=1)
    x[..., 0, 0] = 0
    brighter = weather.brightness(x, 3, noise_of(x))[0]
    for row in range(4):
        for column in range(4):
            hue, saturation, value = colorsys.rgb_to_hsv(*x[0, :, row, column])
            wanted = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.15, 1))
            np.testing.assert_allclose(brighter[:, row, column], wanted, atol=1e-12)


def test_snow_whitens_and_adds_flakes_twice():
    x = images()
    snowy = weather.snow(x, 1, noise_of(x))
    grey = np.einsum("bchw,c->bhw", x, [0.299, 0.587, 0.114])[:, None]
    flakes = snowy - (0.95 * x + 0.05 * np.maximum(x, 1.5 * grey + 0.5))
    assert flakes.min() > -1e-12
    assert flakes.max() > 0.05
    np.testing.assert_allclose(flakes, flakes[:, :, ::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(flakes[:, 0], flakes[:, 2], atol=1e-12)


def test_contrast_moves_every_pixel_to_the_mean_of_its_channel():
    x = images(n=1)
    wanted = 0.4 * x + 0.6 * x.mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(digital.contrast(x, 3, noise_of(x)), wanted, atol=1e-12)


def test_an_elastic_transform_interpolates_as_scipy_does():
    x = images((1, 9, 14), n=1)
    rows, columns = np.random.default_rng(1).uniform(-4, 12, (2, 1, 9, 14))
    for mirrored, mode in ((True, "mirror"), (False, "reflect")):
        wanted = ndimage.map_coordinates(x[0, 0], [rows[0], columns[0]], order=1, mode=mode)
        np.testing.assert_allclose(digital._at(x, rows, columns, mirrored=mirrored)[0, 0], wanted, atol=1e-12)


def test_an_elastic_transform_of_the_first_severity_is_affine():
    down, across = np.mgrid[:32, :32] / 64 + 0.25
    x = np.stack([down, across, np.full((32, 32), 0.5)])[None]
    moved = digital.elastic_transform(x, 1, noise_of(x))[0]
    middle = moved[:, 8:24, 8:24]
    bent = np.abs(np.diff(middle, n=2, axis=1)).max(), np.abs(np.diff(middle, n=2, axis=2)).max()
    assert max(bent) < 1e-12
    assert np.abs(moved[:2] - x[0, :2]).max() > 1 / 64
    reach = 0.08 * 32 / 64
    assert np.abs(middle[:2] - x[0, :2, 8:24, 8:24]).max() < 3 * reach


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)], ids=str)
def test_pixelate_and_jpeg_are_those_of_pillow(shape):
    x = images(shape, n=1)
    pixels = np.round(x[0] * 255).astype(np.uint8)
    image = Image.fromarray(pixels.transpose(1, 2, 0) if shape[0] == 3 else pixels[0])
    small = int(shape[2] * 0.75)
    pixelated = image.resize((small, small), Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)
    file = BytesIO()
    image.save(file, "JPEG", quality=50)
    for name, wanted in (("pixelate", pixelated), ("jpeg_compression", Image.open(file))):
        made = np.round(corrupted(x, name, 4)[0] * 255)
        np.testing.assert_array_equal(
            made if shape[0] == 3 else made[0],
            np.moveaxis(np.asarray(wanted), -1, 0) if shape[0] == 3 else np.asarray(wanted),
        )


# The threat model


def test_the_set_holds_each_corruption_at_each_severity_and_no_other_image():
    threat = parse("corruption:fog+gaussian_noise@2-3")
    assert threat.images == ((1, 3), (10, 3), (1, 2), (10, 2))
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    params = torch.tensor([[number, severity, 0.0] for number, severity in threat.images])
    x_adv = threat.apply(x, params)
    assert threat.contains(x_adv, x, params).all()
    assert threat.measure(x_adv, x, params).tolist() == [1, 1, pytest.approx(2 / 3), pytest.approx(2 / 3)]
    assert not threat.contains(x, x, params).any()
    assert not threat.contains(x, x).any(), "the clean image is no corruption of itself"
    assert not threat.contains(x_adv, x, params.roll(1, 0)).any()
    assert not threat.contains(x_adv, x).any()
    assert not threat.contains((x_adv + 0.5 / 255).clamp(max=1), x, params).any(), "half a grey level off"
    assert not parse("corruption:fog@2-3").contains(x_adv[[0]], x[[0]], params[[0]]).any()
    assert parse("corruption:all@1-5").contains(x_adv, x, params).all()


@pytest.mark.parametrize(
    "params",
    [
        (10, 3, 1),
        (10, 3.5, 0),
        (10.5, 3, 0),
        (10, 4, 0),
        (10, 0, 0),
        (10, -3, 0),
        (9, 3, 0),
        (0, 3, 0),
        (16, 3, 0),
        (1e6, 1e6, 1e6),
        (-10, 3, 0),
        (float("nan"), 3, 0),
        (float("inf"), 3, 0),
        (10, float("nan"), 0),
    ],
)
def test_parameters_of_no_image_of_the_set_are_refused(params):
    threat, x = parse("corruption:fog@3"), torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x_adv = threat.apply(x, torch.tensor([[10.0, 3.0, 0.0]]))
    assert not threat.contains(x_adv, x, torch.tensor([params], dtype=torch.float32)).any()
    assert threat.measure(x_adv, x, torch.tensor([params], dtype=torch.float32)).item() == float("inf")


def test_a_text_reads_back_and_names_each_corruption_once_in_the_order_of_the_paper():
    for text in ("corruption:fog@3", "corruption:snow+fog@1-5", "corruption:all@5"):
        assert str(parse(text)) == text
    assert str(parse("corruption: fog + snow + fog @ 2-2")) == "corruption:snow+fog@2"
    assert str(parse("corruption:" + "+".join(AVAILABLE) + "@1")) == "corruption:all@1"
    assert len(parse("corruption:all@1-5").images) == 70
    assert parse("cifar10c:fog:3") == parse("corruption:fog@3")
    assert len(NAMES) == 15
    with pytest.raises(UserError):
        Corruption((), 1, 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("corruption:frost@3", "photographs"),
        ("corruption:fogg@3", "fog"),
        ("corruption:fog", "write it like corruption:fog@3"),
        ("corruption:fog@0", "severity from 1 to 5"),
        ("corruption:fog@6", "severity from 1 to 5"),
        ("corruption:fog@4-2", "severity from 1 to 5"),
        ("corruption:fog@1-", "write it like"),
        ("corruption:@3", "write it like"),
        ("corruption:", "write it like"),
        ("corruption:+@3", "corruption"),
        ("corruption:" + "fog+" * 10**5 + "fog@x", "write it like"),
    ],
)
def test_an_unreadable_text_is_refused_in_one_sentence(text, why):
    with pytest.raises(UserError, match=why) as refused:
        parse(text)
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)
