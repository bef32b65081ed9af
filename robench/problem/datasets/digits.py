"""The handwritten digits of scikit-learn, a data set that needs no download."""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64

from ..split import Split

SIDE, STORED_SIDE = 28, 8
INK = 16  # the highest stored value
EXAMPLES, TRAIN = 1797, 1297
FILE = "datasets/data/digits.csv.gz"  # of scikit-learn


def read(part: str) -> Split:
    """The 1,297 training examples or the 500 test examples, as 1x28x28 images."""
    pixels, labels = _stored()
    rows = _order()[:TRAIN] if part == "train" else _order()[TRAIN:]
    x, y = upscaled(pixels[rows]), labels[rows]
    return Split.whole(f"digits:{part}", torch.from_numpy(x)[:, None], torch.from_numpy(y), classes=10)


@cache
def _stored() -> tuple[Int64[np.ndarray, "N 8 8"], Int64[np.ndarray, "N"]]:
    """The images and labels of `sklearn.datasets.load_digits`, from the same file: its import takes a second."""
    package = find_spec("sklearn")
    assert package is not None, "robench depends on scikit-learn"
    assert package.origin is not None
    rows = np.loadtxt(Path(package.origin).parent / FILE, delimiter=",", dtype=np.int64)
    return rows[:, :-1].reshape(-1, STORED_SIDE, STORED_SIDE), rows[:, -1]


@cache
def _order() -> list[int]:
    """A fixed shuffle by SHA-256, independent of any library's random generator."""
    return sorted(range(EXAMPLES), key=lambda i: hashlib.sha256(f"digits {i}".encode()).digest())


def upscaled(stored: Int64[np.ndarray, "N 8 8"]) -> Float32[np.ndarray, "N 28 28"]:
    """The images enlarged bilinearly, with half-pixel centres, from 0..16 to [0, 1].

    Computed in whole numbers up to one final division, so the bits are the same on every machine, and 0 and 16 become
    exactly 0 and 1. Their type is a float, which holds them exactly: NumPy multiplies matrices of integers slowly.
    """
    weights = _weights().astype(np.float64)
    sums = weights @ (stored @ weights.T)
    whole = INK * int(weights[0].sum()) ** 2
    pixels: Float32[np.ndarray, "N 28 28"] = (sums / whole).astype(np.float32)
    return pixels


def _weights() -> Int64[np.ndarray, "28 8"]:
    """The weight of each stored pixel in each new pixel, in fourteenths."""
    # New pixel i has its centre at (i + 1/2) 8/28 - 1/2 = (4 i - 5)/14 stored pixels; beyond the edge the edge repeats.
    place = (4 * np.arange(SIDE) - 5).clip(0, 14 * (STORED_SIDE - 1))
    lower = (place // 14).clip(max=STORED_SIDE - 2)
    upper_share = place - 14 * lower
    weights = np.zeros((SIDE, STORED_SIDE), dtype=np.int64)
    weights[np.arange(SIDE), lower] = 14 - upper_share
    weights[np.arange(SIDE), lower + 1] = upper_share
    return weights
