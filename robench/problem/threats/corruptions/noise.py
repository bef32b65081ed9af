"""Corruptions by noise in every pixel of every channel."""

import numpy as np

from .arrays import Array, Noise


def gaussian_noise(x: Array, severity: int, noise: Noise) -> Array:
    """Normal noise is added."""
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return x + scale * noise.normal(*x.shape[1:])


def shot_noise(x: Array, severity: int, noise: Noise) -> Array:
    """The number of photons of each pixel is Poisson-distributed."""
    from scipy import stats  # takes half a second to import, and only this corruption needs it

    photons = (500, 250, 100, 75, 50)[severity - 1]
    counts: Array = stats.poisson.ppf(noise.uniform(*x.shape[1:]), x * photons)
    return counts / photons


def impulse_noise(x: Array, severity: int, noise: Noise) -> Array:
    """A share of the pixels is black or white, as likely one as the other."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    shape = x.shape[1:]
    white = noise.uniform(*shape, stream=1) <= 0.5
    return np.where(noise.uniform(*shape) <= share, white.astype(np.float64), x)
