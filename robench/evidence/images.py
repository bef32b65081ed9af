"""Images in a run file: compressed, as 8-bit numbers if that is exact, and with a checksum."""

import hashlib
import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
"""(C, H, W) in [0, 1]."""


def packed(image: Image) -> tuple[bytes, str, str]:
    """The compressed pixels, their encoding, and the hash of the image."""
    encoding = _encoding(image)
    pixels = np.round(image * 255).astype(np.uint8) if encoding == "u8" else image.astype("<f4")
    return zlib.compress(pixels.tobytes(), 9), encoding, sha256(image)


def unpacked(pixels: object, encoding: object, shape: Sequence[int]) -> Image:
    """The image of this shape. Raises ValueError if the bytes are not what `packed` writes for one."""
    if not isinstance(pixels, bytes) or encoding not in ("u8", "f4"):
        raise ValueError("no pixels, or an unknown encoding")
    size = math.prod(shape) * (1 if encoding == "u8" else 4)
    # At most the size of an image: a small blob may unpack to any size.
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
        raise ValueError("an 8-bit image has another encoding")
    return image


def sha256(image: Image) -> str:
    """The hash of the pixels as float32."""
    return hashlib.sha256(image.astype("<f4").tobytes()).hexdigest()


def _encoding(image: Image) -> str:
    with np.errstate(invalid="ignore"):  # values that are not finite are no 8-bit numbers
        eight = np.round(image * 255).astype(np.uint8)
    return "u8" if np.array_equal((eight / np.float32(255)).astype(np.float32), image) else "f4"
