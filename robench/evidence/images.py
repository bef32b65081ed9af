"""Images as a run file keeps them: compressed, as 8-bit numbers where they are ones, and with a checksum."""

import hashlib
import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
"""(C, H, W) in [0, 1]."""


def packed(image: Image) -> tuple[bytes, str, str]:
    """The compressed pixels, how they are encoded, and the hash of the image."""
    encoding = _encoding(image)
    pixels = np.round(image * 255).astype(np.uint8) if encoding == "u8" else image.astype("<f4")
    return zlib.compress(pixels.tobytes(), 9), encoding, sha256(image)


def unpacked(pixels: object, encoding: object, shape: Sequence[int]) -> Image:
    """The image. Raises ValueError where the bytes hold none of this shape, or not as `packed` writes it."""
    if not isinstance(pixels, bytes) or encoding not in ("u8", "f4"):
        raise ValueError("no pixels, or an unknown encoding")
    size = math.prod(shape) * (1 if encoding == "u8" else 4)
    # Never more than an image has: a small blob may unpack to any size.
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(pixels, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(raw) != size or not stream.eof or stream.unused_data:
        raise ValueError("not the bytes of one image")
    if encoding == "u8":
        image = (np.frombuffer(raw, np.uint8).reshape(shape) / np.float32(255)).astype(np.float32)
    else:
        image = np.frombuffer(raw, "<f4").reshape(shape).astype(np.float32)
    if encoding != _encoding(image):
        raise ValueError("an image of 8 bits is kept as one")
    return image


def sha256(image: Image) -> str:
    """The hash of the pixels as float32."""
    return hashlib.sha256(image.astype("<f4").tobytes()).hexdigest()


def _encoding(image: Image) -> str:
    with np.errstate(invalid="ignore"):  # what is not finite is no 8-bit number
        eight = np.round(image * 255).astype(np.uint8)
    return "u8" if np.array_equal((eight / np.float32(255)).astype(np.float32), image) else "f4"
