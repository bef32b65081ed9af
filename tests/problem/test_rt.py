"""Rotations and translations against scipy's resampling, and what the witness of a member must be."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from robench.errors import UserError
from robench.problem.threats import RT, parse

SHAPES = [(1, 28, 28), (3, 32, 32), (2, 9, 14)]


def images(shape, n=6, seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def transforms(n=6, seed=1):
    g = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(n, 3, generator=g) - 1) * torch.tensor([3.0, 3.0, 30.0])


def by_scipy(image, tx, ty, degrees, padding):
    """Rotated, then shifted, each with scipy's own bilinear interpolation, zeros all round."""
    image = np.pad(image, padding)
    rotated = ndimage.rotate(image, degrees, reshape=False, order=1, mode="grid-constant")
    shifted = ndimage.shift(rotated, (ty, tx), order=1, mode="grid-constant")
    return shifted[padding:-padding, padding:-padding] if padding else shifted


@pytest.mark.parametrize("padding", [0, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_is_rotated_about_its_middle_and_then_shifted(shape, padding):
    threat = parse("rt:3px,30deg" + (f",pad{padding}" if padding else ""))
    x, params = images(shape), transforms()
    moved = threat.apply(x, params)
    for image, transform, got in zip(x.double().numpy(), params.tolist(), moved.numpy(), strict=True):
        wanted = np.stack([by_scipy(channel, *transform, padding) for channel in image])
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_whole_pixels_and_quarter_turns_only_move_pixels():
    x = images((1, 6, 6), n=1)
    threat = parse("rt:3px,180deg")
    right = threat.apply(x, torch.tensor([[2.0, 0.0, 0.0]]))
    torch.testing.assert_close(right[..., 2:], x[..., :-2], atol=1e-5, rtol=0)
    assert right[..., :2].max() < 1e-6
    down = threat.apply(x, torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(down[..., 1:, :], x[..., :-1, :], atol=1e-5, rtol=0)
    turned = threat.apply(x, torch.tensor([[0.0, 0.0, 90.0]]))
    torch.testing.assert_close(turned, x.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_padding_keeps_pixels_that_a_rotation_would_move_out_of_the_frame():
    x = torch.zeros(1, 1, 9, 9)
    x[..., 0, 0] = 1  # a corner: a turn takes it out of the frame, a shift brings it back
    transform = torch.tensor([[3.0, 3.0, 20.0]])
    assert parse("rt:3px,30deg").apply(x, transform).sum() < 0.2
    assert parse("rt:3px,30deg,pad16").apply(x, transform).sum() > 0.9


@pytest.mark.parametrize("text", ["rt:3px,30deg", "rt:3px,30deg,pad4", "rt:0px,5deg", "rt:0.5px,0deg"])
def test_images_in_their_pose_are_members_and_no_others(text):
    threat, x = parse(text), images((1, 10, 8))
    limits = threat.limits(x)
    params = limits * (2 * torch.rand(6, 3, generator=torch.Generator().manual_seed(3)) - 1)
    x_adv = threat.apply(x, params)
    assert threat.contains(x_adv, x, params).all()
    assert threat.contains(x_adv[:3], x[:3], params[:3]).tolist() == [True] * 3, "in a batch of another size, too"
    off = x_adv.clone()
    off[:, 0, 5, 4] += 0.01 * torch.where(off[:, 0, 5, 4] > 0.5, -1, 1)
    assert not threat.contains(off, x, params).any(), "the image must be the one the witness leads to"
    assert not threat.contains(x_adv, x).any(), "without a witness nothing was moved"
    too_far = 1.01 * limits.expand(6, 3)
    assert not threat.contains(threat.apply(x, too_far), x, too_far).any()
    at_the_limits = limits.expand(6, 3)
    assert threat.contains(threat.apply(x, at_the_limits), x, at_the_limits).all()


def test_the_identity_transform_changes_no_bit():
    x = images((3, 7, 7))
    assert torch.equal(parse("rt:3px,30deg,pad2").apply(x, torch.zeros(6, 3)), x)


def test_the_text_reads_back():
    for text in ("rt:3px,30deg", "rt:1.5px,0deg", "rt:3px,30deg,pad16"):
        assert str(parse(text)) == text
    assert parse("rt:3px,30deg") == RT.parse("3 px, 30 deg")


@pytest.mark.parametrize(
    "text", ["rt:3", "rt:", "rt:3px", "rt:0px,0deg", "rt:-1px,3deg", "rt:1px,200deg", "rt:1/0px,2deg"]
)
def test_limits_that_mean_nothing_are_refused_with_an_example(text):
    with pytest.raises(UserError, match="rt:3px,30deg"):
        parse(text)
