"""Converts stored bytes to a `Split`: the only place where 0..255 becomes [0, 1]."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8

from ..split import Split, Undecoded

HIGHEST = np.float32(255)


def unit(pixels: UInt8[np.ndarray, "*S"]) -> Float32[np.ndarray, "*S"]:
    """Each byte divided by 255, correctly rounded, so that a digest is the same on every machine."""
    return pixels.astype(np.float32) / HIGHEST


def split_of_bytes(
    name: str, pixels: UInt8[np.ndarray, "N C H W"], labels: Int[np.ndarray, "N"] | UInt8[np.ndarray, "N"], classes: int
) -> Split:
    """A whole part of a published data set, from its bytes."""
    x = torch.from_numpy(np.ascontiguousarray(unit(pixels)))
    return Split.whole(name, x, torch.from_numpy(labels.astype(np.int64)), classes)


def source_of_bytes(
    name: str, pixels: UInt8[np.ndarray, "N C H W"], labels: Int[np.ndarray, "N"] | UInt8[np.ndarray, "N"], classes: int
) -> Undecoded:
    """A large part, stored as bytes: an example takes four times the memory only when it is taken."""

    def decode(rows: Sequence[int]) -> Split:
        i = list(rows)
        x = torch.from_numpy(np.ascontiguousarray(unit(pixels[i])))
        return Split(name, x, torch.from_numpy(labels[i].astype(np.int64)), tuple(i), classes)

    return Undecoded(name, len(labels), decode, labels=labels.tolist())
