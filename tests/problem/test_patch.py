"""Patches: what the image alone shows."""

import pytest
import torch

from robench.errors import UserError
from robench.problem import cautions
from robench.problem.threats import parse


def images(shape=(3, 9, 12), n=2):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(3, 3, 1), (2, 3, 1), (1, 1, 1 / 3), (4, 1, 4 / 3), (3, 4, 4 / 3)]
)
@pytest.mark.parametrize("corner", [(0, 0), (5, 8), (2, 3)])
def test_all_changed_pixels_lie_in_a_square_of_the_side(height, width, size, corner):
    threat, x = parse("patch:3px"), images()
    x_adv, (row, column) = x.clone(), corner
    x_adv[:, :, row : row + height, column : column + width] = 1 - x[:, :, row : row + height, column : column + width]
    assert threat.measure(x_adv, x).tolist() == [pytest.approx(size)] * 2
    assert threat.contains(x_adv, x).tolist() == [size <= 1] * 2


def test_one_channel_of_one_pixel_far_away_is_one_too_many():
    threat, x = parse("patch:3px"), images()
    x_adv = x.clone()
    x_adv[:, :, 1:4, 1:4] = 0
    assert threat.contains(x_adv, x).all()
    x_adv[1, 2, 4, 2] = torch.nextafter(x[1, 2, 4, 2], torch.tensor(1.0))
    assert threat.contains(x_adv, x).tolist() == [True, False]


@pytest.mark.parametrize("side", [1, 4, 7, 8])
def test_one_place_more_than_the_side_is_no_member_whatever_the_side(side):
    threat, x = parse(f"patch:{side}px"), torch.full((1, 1, 9, 12), 0.5)
    for height, width, member in ((side, side, True), (side + 1, 1, False), (1, side + 1, False)):
        x_adv = x.clone()
        x_adv[:, :, :height, :width] = 0.75
        assert threat.contains(x_adv, x).tolist() == [member]


def test_the_clean_image_is_a_member_and_images_outside_the_box_or_with_nan_are_not():
    threat, x = parse("patch:3px"), images()
    assert threat.contains(x, x).all()
    assert threat.measure(x, x).tolist() == [0, 0]
    for value in (1.001, -0.001, float("nan"), float("inf")):
        x_adv = x.clone()
        x_adv[:, 0, 0, 0] = value
        assert not threat.contains(x_adv, x).any()


def test_parameters_do_not_matter():
    threat, x = parse("patch:3px"), images()
    x_adv = x.clone()
    x_adv[1] = 0
    for params in (torch.full((2, 3), float("nan")), torch.full((2, 500), 1e6)):
        assert threat.contains(x_adv, x, params).tolist() == [True, False]


def test_a_text_reads_back_and_others_are_refused_in_one_sentence():
    assert str(parse("patch: 5 px")) == "patch:5px"
    for text in ("", "5", "px", "-1px", "0px", "1.5px", "1e3px", "9" * 20 + "px", "5px,5px", "٣px"):
        with pytest.raises(UserError, match="like patch:5px") as refused:
            parse(f"patch:{text}")
        assert "\n" not in str(refused.value)


def test_a_patch_as_large_as_the_image_may_become_any_image():
    assert "any image" in cautions.of_threat(parse("patch:12px"), (3, 9, 12))
    assert cautions.of_threat(parse("patch:11px"), (3, 9, 12)) == ""
