"""Corruptions that blur."""

import numpy as np
from scipy import ndimage

from .arrays import Array, Noise, eight_bits, enlarged, rounded


def defocus_blur(x: Array, severity: int, noise: Noise) -> Array:
    """Averaged over a disk, whose edge a Gaussian of three pixels softens."""
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    down, across = np.mgrid[-2:3, -2:3]
    disk = (down**2 + across**2 <= radius**2).astype(np.float64)
    taps = np.exp(-np.square([-1.0, 0.0, 1.0]) / (2 * softness**2))
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, taps / taps.sum(), axis=axis, mode="constant")
    blurred: Array = ndimage.correlate(x, (disk / disk.sum())[None, None], mode="mirror")
    return blurred


def glass_blur(x: Array, severity: int, noise: Noise) -> Array:
    """Every pixel takes the place of a neighbour, between two Gaussian blurs.

    The published images were made so: the authors' code means to exchange the pixels, and copies one over the other.
    """
    sigma, repeats = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    x = eight_bits(_smoothed(x, sigma))
    _, _, height, width = x.shape
    images = np.arange(len(x))
    for repeat in range(repeats):
        across, down = -(noise.uniform(2, height, width, stream=repeat) < 0.5).astype(int).swapaxes(0, 1)  # -1 or 0
        for row in range(height - 1, 1, -1):
            for column in range(width - 1, 1, -1):
                x[:, :, row, column] = x[images, :, row + down[:, row, column], column + across[:, row, column]]
    return _smoothed(x, sigma)


def motion_blur(x: Array, severity: int, noise: Noise) -> Array:
    """Smeared along a direction within 45 degrees of the horizontal."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    return smeared(x, radius, sigma, noise.between(-45, 45, 1)[:, 0])


def zoom_blur(x: Array, severity: int, noise: Noise) -> Array:
    """The mean of the image and of its middle, ever more enlarged."""
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    whole = x + sum(enlarged(x, factor) for factor in factors)
    blurred: Array = whole / (len(factors) + 1)
    return blurred


def smeared(x: Array, radius: int, sigma: float, degrees: Array) -> Array:
    """Half a Gaussian along a direction of each image, in whole pixels, as ImageMagick's motion blur.

    Pixels beyond the edge are those of the edge. The result has 8 bits.
    """
    _, _, height, width = x.shape
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-np.square(steps) / (2 * sigma**2))
    angle = np.deg2rad(degrees)[:, None]
    down, across = (np.ceil(steps * way - 0.5).astype(int) for way in (np.sin(angle), np.cos(angle)))
    images, blurred = np.arange(len(x))[:, None, None], np.zeros_like(x)
    for step, weight in enumerate(weights / weights.sum()):
        rows = np.clip(np.arange(height) + down[:, step, None], 0, height - 1)
        columns = np.clip(np.arange(width) + across[:, step, None], 0, width - 1)
        blurred += weight * x[images, :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)
    return rounded(blurred)


def _smoothed(x: Array, sigma: float) -> Array:
    smooth: Array = ndimage.gaussian_filter(x, (0, 0, sigma, sigma), mode="nearest", truncate=4)
    return smooth
