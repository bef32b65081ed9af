"""Corruptions of digital images."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from .arrays import Array, Noise

LENGTH = 32  # pixels, of which the constants of the elastic transform are shares


def contrast(x: Array, severity: int, noise: Noise) -> Array:
    """Every pixel moves towards the mean of its channel."""
    share = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    means = x.mean(axis=(2, 3), keepdims=True)
    grey: Array = (x - means) * share + means
    return grey


def elastic_transform(x: Array, severity: int, noise: Noise) -> Array:
    """A random affine map, then a smooth random flow; both interpolate bilinearly and reflect at the edge."""
    alpha, sigma, reach = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity - 1]
    _, _, height, width = x.shape
    middle = np.array([width // 2, height // 2], dtype=np.float64)
    square = min(height, width) // 3
    before = middle + square * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    after = before + noise.between(-reach * LENGTH, reach * LENGTH, 3, 2)
    down, across = np.mgrid[:height, :width].astype(np.float64)
    places = np.stack([across, down, np.ones_like(down)])
    ones = np.ones((len(x), 3, 1))
    back = np.linalg.pinv(np.concatenate([after, ones], axis=2)) @ np.concatenate(
        [np.broadcast_to(before, after.shape), ones], axis=2
    )
    columns, rows = np.einsum("bki,khw->ibhw", back, places)[:2]
    x = _at(x, rows, columns, mirrored=True)
    flow = noise.between(-1, 1, 2, height, width, stream=1)
    flow = ndimage.gaussian_filter(flow, (0, 0, sigma * LENGTH, sigma * LENGTH), mode="reflect", truncate=3)
    flow *= alpha * LENGTH
    return _at(x, down + flow[:, 1], across + flow[:, 0], mirrored=False)


def pixelate(x: Array, severity: int, noise: Noise) -> Array:
    """Made smaller and larger again, by averages over boxes."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    height, width = x.shape[2:]
    small = max(1, int(width * share)), max(1, int(height * share))

    def resized(image: Image.Image) -> Image.Image:
        return image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX)

    return np.stack([_by_pillow(image, resized) for image in x])


def jpeg_compression(x: Array, severity: int, noise: Noise) -> Array:
    """Compressed by JPEG."""
    quality = (80, 65, 58, 50, 40)[severity - 1]

    def compressed(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return np.stack([_by_pillow(image, compressed) for image in x])


def _at(x: Array, rows: Array, columns: Array, *, mirrored: bool) -> Array:
    """The images at these coordinates (B, H, W), bilinearly.

    Outside, they reflect about the edge pixels if `mirrored`, else about the outer edges of these.
    """
    height, width = x.shape[2:]
    if mirrored:
        down, across = 2 * rows / max(height - 1, 1) - 1, 2 * columns / max(width - 1, 1) - 1
    else:
        down, across = (2 * rows + 1) / height - 1, (2 * columns + 1) / width - 1
    grid = torch.from_numpy(np.stack([across, down], axis=3))
    image = torch.from_numpy(np.ascontiguousarray(x))
    moved = F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=mirrored)
    array: Array = moved.numpy()
    return array


def _by_pillow(image: Array, change: Callable[[Image.Image], Image.Image]) -> Array:
    """An image (C, H, W) after a change of 8-bit images: in colour, or channel by channel."""
    levels = np.round(image * 255).astype(np.uint8)
    if len(levels) == 3:
        changed = np.asarray(change(Image.fromarray(levels.transpose(1, 2, 0)))).transpose(2, 0, 1)
    else:
        changed = np.stack([np.asarray(change(Image.fromarray(channel))) for channel in levels])
    return changed / 255.0
