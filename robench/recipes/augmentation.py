"""Random changes of the training images, different in every epoch."""

from dataclasses import dataclass

import torch
from torch import nn

from ..problem.noise import uniform
from ..problem.shapes import Inputs, Keys
from ..problem.threats import RT
from ..problem.threats.base import TransformParams

REACH = 4  # pixels of a random shift, as usual for CIFAR-10
SHIFT_AND_MIRROR, TRANSFORM = 1_000_003, 1_000_004  # which noise of an image they have


@dataclass(frozen=True)
class Augmentation:
    """What happens to a batch before the attack. By default nothing."""

    mirror: bool = False  # shift by up to 4 pixels and mirror, as usual for CIFAR-10
    rt: RT | None = None  # rotate, then shift, uniformly within these limits

    def __call__(self, x: Inputs, keys: Keys) -> Inputs:
        """The images after random changes that depend on their keys alone."""
        if self.mirror:
            x = _shifted_and_mirrored(x, keys)
        if self.rt:
            share = 2 * uniform(keys, TRANSFORM, 3) - 1
            x = _rotated_and_shifted(x, share * self.rt.limits(x))
        return x


UNCHANGED = Augmentation()


def _shifted_and_mirrored(x: Inputs, keys: Keys) -> Inputs:
    """Each image shifted by up to `REACH` pixels, with black padding, and mirrored with probability 1/2."""
    n, _, height, width = x.shape
    noise = uniform(keys, SHIFT_AND_MIRROR, 3)
    down, across = ((noise[:, i] * (2 * REACH + 1)).long() for i in (0, 1))
    rows = torch.arange(height, device=x.device) + down[:, None]
    columns = torch.arange(width, device=x.device)
    columns = torch.where(noise[:, 2:] < 0.5, width - 1 - columns, columns) + across[:, None]
    padded = nn.functional.pad(x, [REACH] * 4)
    return padded[torch.arange(n, device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def _rotated_and_shifted(x: Inputs, params: TransformParams) -> Inputs:
    """The images after these transforms, with black from outside.

    One bicubic resampling: the two bilinear ones of the spatial attack would blur thin strokes, so that the network
    would learn from digits of less contrast than those it is measured on.
    """
    height, width = x.shape[-2:]
    tx, ty, angle = params[:, 0], params[:, 1], params[:, 2].deg2rad()
    cos, sin = angle.cos(), angle.sin()
    # A point of the result, in shares of half the width and height from the middle, to its point in the image.
    across, along = tx * 2 / width, ty * 2 / height
    back = torch.stack(
        [
            torch.stack([cos, -sin * height / width, -cos * across + sin * along * height / width], dim=1),
            torch.stack([sin * width / height, cos, -sin * across * width / height - cos * along], dim=1),
        ],
        dim=1,
    )
    grid = nn.functional.affine_grid(back, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, mode="bicubic", align_corners=False).clamp(0, 1)
