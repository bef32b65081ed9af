"""The data set that needs no download: scikit-learn carries it."""

import hashlib
from functools import cache

import numpy as np
import torch
from jaxtyping import Float32, Int64

from ..split import Split

SIDE, STORED_SIDE = 28, 8
INK = 16  # the highest stored value
EXAMPLES, TRAIN = 1797, 1297


def read(part: str) -> Split:
    """1,297 examples to train on, or the 500 others, as 1x28x28 images."""
    from sklearn.datasets import load_digits  # a second of imports that no other data set needs

    stored = load_digits()
    rows = _order()[:TRAIN] if part == "train" else _order()[TRAIN:]
    x = upscaled(stored.images[rows].astype(np.int64))
    y = stored.target[rows].astype(np.int64)
    return Split.whole(f"digits:{part}", torch.from_numpy(x)[:, None], torch.from_numpy(y), classes=10)


@cache
def _order() -> list[int]:
    """A shuffle fixed by SHA-256, which no library's random generator can change."""
    return sorted(range(EXAMPLES), key=lambda i: hashlib.sha256(f"digits {i}".encode()).digest())


def upscaled(stored: Int64[np.ndarray, "N 8 8"]) -> Float32[np.ndarray, "N 28 28"]:
    """Bilinear, as half-pixel centres have it, from 0..16 to [0, 1].

    In whole numbers up to one last division: it gives the same bits everywhere, and 0 and 16 become exactly 0 and 1.
    """
    weights = _weights()
    sums = weights @ (stored @ weights.T)
    whole = INK * int(weights[0].sum()) ** 2
    pixels: Float32[np.ndarray, "N 28 28"] = (sums / whole).astype(np.float32)
    return pixels


def _weights() -> Int64[np.ndarray, "28 8"]:
    """How much of each stored pixel a new one takes, in fourteenths."""
    # New pixel i has its centre at (i + 1/2) 8/28 - 1/2 = (4 i - 5)/14 stored pixels; beyond the edge the edge repeats.
    place = (4 * np.arange(SIDE) - 5).clip(0, 14 * (STORED_SIDE - 1))
    left = (place // 14).clip(max=STORED_SIDE - 2)
    right_share = place - 14 * left
    weights = np.zeros((SIDE, STORED_SIDE), dtype=np.int64)
    weights[np.arange(SIDE), left] = 14 - right_share
    weights[np.arange(SIDE), left + 1] = right_share
    return weights
