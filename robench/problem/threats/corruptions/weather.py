"""Corruptions by weather. Frost pastes photographs, and is left out."""

import numpy as np

from .arrays import Array, Noise, eight_bits, enlarged
from .blur import smeared

LUMA = np.array([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
WIBBLE = 100.0  # of the first squares of a fractal


def snow(x: Array, severity: int, noise: Noise) -> Array:
    """The image whitened, with flakes that fall at an angle, and once more with the flakes upside down."""
    mean, deviation, zoom, threshold, radius, sigma, share = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )[severity - 1]
    flakes = enlarged(mean + deviation * noise.normal(1, *x.shape[2:]), zoom)
    flakes = eight_bits(np.where(flakes < threshold, 0.0, flakes))
    flakes = smeared(flakes, radius, sigma, noise.between(-135, -45, 1, stream=1)[:, 0])
    grey = (x * LUMA).sum(axis=1, keepdims=True) if x.shape[1] == 3 else x.mean(axis=1, keepdims=True)
    white = share * x + (1 - share) * np.maximum(x, grey * 1.5 + 0.5)
    snowy: Array = white + flakes + flakes[:, :, ::-1, ::-1]
    return snowy


def fog(x: Array, severity: int, noise: Noise) -> Array:
    """A fractal cloud is added, and the whole scaled back to the brightest pixel of the image."""
    strength, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    _, _, height, width = x.shape
    cloud = fractal(max(height, width, 2), decay, noise)[:, None, :height, :width]
    foggy: Array = (x + strength * cloud) * brightest / (brightest + strength)
    return foggy


def brightness(x: Array, severity: int, noise: Noise) -> Array:
    """The value of each pixel is raised in the space of hue, saturation and value."""
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = x.max(axis=1, keepdims=True)
    scale = np.minimum(value + more, 1) / np.where(value > 0, value, 1)
    return np.where(value > 0, x * scale, more)  # black has no saturation


def fractal(length: int, decay: float, noise: Noise) -> Array:
    """Height maps (B, N, N) from 0 to 1, by the diamond-square algorithm on a torus; N is a power of 2.

    Each new point is the mean of its four neighbours plus uniform noise, which `decay` divides after each halving.
    """
    size = 1 << (length - 1).bit_length()
    heights = np.zeros((len(noise), size, size))
    step, wibble, stream = size, WIBBLE, 0

    def mean(total: Array) -> Array:
        nonlocal stream
        stream += 1
        return total / 4 + wibble * noise.between(-wibble, wibble, *total.shape[1:], stream=stream)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        centres = mean(pairs + np.roll(pairs, -1, axis=2))
        heights[:, half::step, half::step] = centres
        above = centres + np.roll(centres, 1, axis=1)
        heights[:, ::step, half::step] = mean(above + corners + np.roll(corners, -1, axis=2))
        beside = centres + np.roll(centres, 1, axis=2)
        heights[:, half::step, ::step] = mean(beside + corners + np.roll(corners, -1, axis=1))
        step, wibble = half, wibble / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    whole: Array = heights / heights.max(axis=(1, 2), keepdims=True)
    return whole
