"""What the corruptions share: noise that belongs to an image, 8-bit rounding, and a bilinear enlargement."""

import hashlib
from typing import Any

import numpy as np
import torch
from scipy import ndimage, special

from ...noise import keyed, text_key, uniform

Array = np.ndarray[Any, np.dtype[np.float64]]

TIE = 1e-6  # of a grey level: values that close below a whole level are rounding, not darkness


class Noise:
    """Random numbers for each image, from its pixels, the corruption and the severity alone.

    The numbers of each stream are independent.
    """

    def __init__(self, x: Array, name: str, severity: int):
        digests = [hashlib.sha256(image.tobytes()).digest()[:7] for image in np.ascontiguousarray(x)]
        numbers = torch.tensor([int.from_bytes(digest, "big") for digest in digests])
        self._keys = keyed(severity, numbers, text_key(name), restart=0)

    def __len__(self) -> int:
        return len(self._keys)

    def uniform(self, *shape: int, stream: int = 0) -> Array:
        """Numbers between 0 and 1, (B, *shape)."""
        return uniform(self._keys, stream, int(np.prod(shape))).double().numpy().reshape(-1, *shape)

    def between(self, low: int | float, high: int | float, *shape: int, stream: int = 0) -> Array:
        """Numbers from low to high, (B, *shape)."""
        return low + (high - low) * self.uniform(*shape, stream=stream)

    def normal(self, *shape: int, stream: int = 0) -> Array:
        """Standard normal numbers, (B, *shape)."""
        normal: Array = special.ndtri(self.uniform(*shape, stream=stream))
        return normal


def eight_bits(x: Array) -> Array:
    """Each pixel cut to [0, 1] and lowered to a multiple of 1/255, as the published images were."""
    lowered: Array = np.floor(np.clip(x, 0, 1) * 255 + TIE) / 255
    return lowered


def rounded(x: Array) -> Array:
    """Each pixel cut to [0, 1] and moved to the nearest multiple of 1/255."""
    nearest: Array = np.floor(np.clip(x, 0, 1) * 255 + 0.5 + TIE) / 255
    return nearest


def enlarged(x: Array, factor: float) -> Array:
    """The middle of the images, enlarged bilinearly to their size."""
    height, width = x.shape[2:]
    rows, columns = (-(-length // factor) for length in (height, width))
    top, left = int(height - rows) // 2, int(width - columns) // 2
    middle = x[:, :, top : top + int(rows), left : left + int(columns)]
    large: Array = ndimage.zoom(middle, (1, 1, factor, factor), order=1)
    top, left = (large.shape[2] - height) // 2, (large.shape[3] - width) // 2
    return large[:, :, top : top + height, left : left + width]
