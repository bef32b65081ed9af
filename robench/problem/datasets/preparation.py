"""The preparation of image files: resizing, cropping, channels, and the label map."""

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from ...errors import UserError, unknown

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
LARGEST_SIDE = 4096
FORM = "write a number of pixels like 256, or height and width like 224x224"

OPTIONS = ("resize", "crop", "interpolation", "labels", "channels")

Size = int | tuple[int, int]
"""A side length, or height and width, in pixels."""


@dataclass(frozen=True)
class Preparation:
    """The preparation of images, as the user wrote it. By default, nothing is done.

    `resize` is the length of the shorter side, the other in proportion, or HEIGHTxWIDTH; `crop` is the side of the
    central square, or HEIGHTxWIDTH. Both work as torchvision's Resize and CenterCrop on PIL images, with antialiasing.
    `channels` is 1 for grey or 3 for colour; `labels` is a file that maps names of classes to outputs of the model.
    """

    resize: str = ""
    crop: str = ""
    interpolation: str = ""  # empty: bilinear
    labels: str = ""
    channels: str = ""  # empty: 1 if all images are grey, else 3

    def __post_init__(self) -> None:
        for option, text in (("resize", self.resize), ("crop", self.crop)):
            if text:
                _size(option, text)
        if self.interpolation and self.interpolation not in FILTERS:
            raise unknown("interpolation", self.interpolation, FILTERS)
        if self.channels not in ("", "1", "3"):
            raise UserError(f"--channels {self.channels} is neither 1 (grey) nor 3 (colour)")
        if self.interpolation and not self.resize:
            raise UserError(f"interpolation {self.interpolation} has no effect without a resize; give --resize too")

    @classmethod
    def of(cls, known: Mapping[str, str]) -> "Preparation":
        """The preparation of a run, from its environment."""
        return cls(**{key: known.get(key, "") for key in OPTIONS})

    def known(self) -> dict[str, str]:
        """The options that are set, as `of` reads them."""
        return {key: value for key in OPTIONS if (value := getattr(self, key))}

    def given(self) -> str:
        """The first option that is set, as the user types it; empty if none is."""
        return next((f"--{key} {value}" for key, value in self.known().items()), "")

    def apply(self, image: Image.Image, source: str) -> Image.Image:
        """The image, resized, then cropped. Raises UserError about `source` if it is smaller than the crop."""
        if self.resize:
            width, height = self._resized(image.width, image.height)
            if max(width, height) > 16 * LARGEST_SIDE:
                raise UserError(f"{source} would be {height}x{width} pixels after --resize {self.resize}; leave it out")
            image = image.resize((width, height), FILTERS[self.interpolation or "bilinear"])
        if not self.crop:
            return image
        size = _size("crop", self.crop)
        height, width = (size, size) if isinstance(size, int) else size
        if image.height < height or image.width < width:
            raise UserError(
                f"{source} is {image.height}x{image.width}, smaller than --crop {self.crop}; give --resize"
                f" {max(height, width)} or more too"
            )
        top, left = round((image.height - height) / 2), round((image.width - width) / 2)
        return image.crop((left, top, left + width, top + height))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing; the longer side is rounded down, as in torchvision."""
        size = _size("resize", self.resize)
        if not isinstance(size, int):
            return size[1], size[0]
        if width <= height:
            return size, max(1, int(size * height / width))
        return max(1, int(size * width / height)), size


def _size(option: str, text: str) -> Size:
    """The size in a text such as `256` or `224x224`, height first. Raises UserError, which names the option."""
    sides = [side.strip() for side in text.lower().split("x")]
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and len(side) < 6 for side in sides):
        raise UserError(f"--{option} {text} is not a size; {FORM}")
    if not all(1 <= int(side) <= LARGEST_SIDE for side in sides):
        raise UserError(f"--{option} {text} is out of range; sides go from 1 to {LARGEST_SIDE} pixels")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
