"""Decodes images with Pillow to arrays of bytes, all of one size and one number of channels."""

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from ...errors import UserError
from .preparation import Preparation

GREY = ("1", "L", "LA")
COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La")
SAMPLED = 16  # evenly spaced images, which decide whether all are read as grey
LARGEST = 2**33  # bytes of float32 pixels

Open = Callable[[int], tuple[Image.Image, str]]
"""A function from a row to its image, and the image's name for messages. Pillow decodes pixels only when needed."""


def grey(open_picture: Open, count: int, preparation: Preparation) -> bool:
    """Whether the images are read as grey: as the user chooses, else if a sample of them is grey.

    The result does not depend on which examples are used.
    """
    if preparation.channels:
        return preparation.channels == "1"
    rows = {round(i * (count - 1) / (SAMPLED - 1)) for i in range(SAMPLED)}
    for row in sorted(rows):
        image, _ = open_picture(row)
        try:
            if image.mode not in GREY:
                return False
        finally:
            image.close()
    return True


def decoded(
    open_picture: Open, rows: Sequence[int], *, as_grey: bool, preparation: Preparation, name: str
) -> UInt8[np.ndarray, "N H W C"]:
    """The images in these rows. Raises UserError for one that is damaged, or differs in size from the first."""
    pixels: UInt8[np.ndarray, "N H W C"] | None = None
    first = ""
    for i, row in enumerate(rows):
        image, source = open_picture(row)
        array = _array(image, source, as_grey, preparation)
        if pixels is None:
            needed = 4 * array.size * len(rows)
            if needed > LARGEST:
                raise UserError(
                    f"{len(rows)} images of {name} at {array.shape[0]}x{array.shape[1]} need {needed / 1e9:.0f} GB;"
                    " use fewer with --examples, or make them smaller with --resize"
                )
            pixels, first = np.empty((len(rows), *array.shape), dtype=np.uint8), source
        if array.shape != pixels.shape[1:]:
            raise UserError(
                f"the images of {name} have different sizes: {first} is {_by(pixels.shape[1:])}, {source} is"
                f" {_by(array.shape)}; bring them to one with --resize and --crop, such as --resize 256 --crop 224"
            )
        pixels[i] = array
    assert pixels is not None, "no rows were named"
    return pixels


def opened(file: str | io.BytesIO, source: str) -> Image.Image:
    """The image in a file or its bytes. Raises UserError if it is not an image, or would have far too many pixels."""
    with _sentences(source):
        return Image.open(file)


def _array(image: Image.Image, source: str, as_grey: bool, preparation: Preparation) -> UInt8[np.ndarray, "H W C"]:
    with image, _sentences(source):
        if image.mode not in (*GREY, *COLOUR):
            raise UserError(
                f"{source} has pixels of kind {image.mode}, not of 8 bits; convert it to 8 bits per channel"
            )
        if as_grey and not preparation.channels and image.mode not in GREY:
            raise UserError(f"{source} is in colour, but other images are grey; give --channels 3, or 1")
        # A palette with transparency loses colours unless it is converted to RGBA first.
        unfolded = image.convert("RGBA") if image.mode in ("P", "PA") else image
        converted = preparation.apply(unfolded.convert("L" if as_grey else "RGB"), source)
        array = np.asarray(converted, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array


@contextmanager
def _sentences(source: str) -> Iterator[None]:
    """Converts errors and warnings of Pillow to a UserError about `source`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except UserError:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise UserError(f"{source} has far too many pixels; make it smaller") from None
        except UnidentifiedImageError:
            raise UserError(f"{source} is not an image that Pillow can read; delete it, or save it again") from None
        except Exception as error:  # damaged files raise almost anything
            raise UserError(f"{source} is damaged ({error}); delete it, or save it again") from None


def _by(shape: Iterable[int]) -> str:
    height, width, *_ = shape
    return f"{height}x{width}"
