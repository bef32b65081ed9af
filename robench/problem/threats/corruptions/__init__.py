"""The common corruptions of Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261, as functions of images.

With the constants of CIFAR-10-C, in pixels, whatever the size of the image. Arrays are float64 (B, C, H, W) with pixels
from 0 to 1. Noise belongs to the image: the same image has the same noise, in any batch and on any machine.
"""

from collections.abc import Callable

import numpy as np

from . import blur, digital, noise, weather
from .arrays import Array, Noise, eight_bits

Corrupt = Callable[[Array, int, Noise], Array]
"""Images, the severity from 1 to 5 and the noise of each image, to images."""

CORRUPTIONS: dict[str, Corrupt | None] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": None,  # pastes photographs, which are a download
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
"""The fifteen, in the order of the paper, which numbers them from 1 on."""

NAMES = tuple(CORRUPTIONS)
SEVERITIES = 5


def corrupted(x: Array, name: str, severity: int) -> Array:
    """The images after one corruption, rounded to 8 bits as in CIFAR-10-C."""
    corrupt = CORRUPTIONS[name]
    assert corrupt is not None, f"{name} is not available"
    levels = np.round(x * 255)
    x = np.where(np.abs(x * 255 - levels) < 1e-4, levels / 255, x)  # float32 rounding of 8-bit images
    return eight_bits(corrupt(x, severity, Noise(x, name, severity)))
