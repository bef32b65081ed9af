"""A square patch anywhere in the image, of any content."""

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...errors import UserError
from ..shapes import Inputs, Mask, PerExample
from .base import ThreatModel, TransformParams, in_box

LARGEST = 10**6  # pixels


@dataclass(frozen=True)
class Patch(ThreatModel):
    """All changed pixels lie in a square of so many pixels on each side, whatever they change to.

    The image alone shows its membership: no parameters are needed.
    """

    name: ClassVar[str] = "patch"
    form: ClassVar[str] = "patch:5px"
    meaning: ClassVar[str] = "any content in one square of so many pixels on each side, wherever it lies"

    side: int  # pixels

    def __post_init__(self) -> None:
        if not 1 <= self.side <= LARGEST:
            raise UserError(f"a patch has sides of 1 to {LARGEST} whole pixels; write it like {self.form}")

    @classmethod
    def parse(cls, text: str) -> "Patch":
        """`5px`. Raises ValueError for anything else."""
        match = re.fullmatch(r"([0-9]{1,9})px", text.replace(" ", ""))
        if not match:
            raise ValueError(text)
        return cls(int(match[1]))

    def __str__(self) -> str:
        return f"patch:{self.side}px"

    def sides(self, x: Inputs) -> tuple[int, int]:
        """Height and width of the largest patch that fits images of this shape."""
        height, width = x.shape[-2:]
        return min(self.side, height), min(self.side, width)

    def contains(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> Mask:
        return in_box(x_adv) & (self.measure(x_adv, x) <= 1)

    def measure(self, x_adv: Inputs, x: Inputs, params: TransformParams | None = None) -> PerExample:
        """The longer side of the smallest rectangle with all changed pixels, as a share of the patch's side."""
        changed = (x_adv != x).any(dim=1)
        return torch.maximum(_extent(changed.any(dim=2)), _extent(changed.any(dim=1))).double() / self.side


def _extent(changed: Bool[Tensor, "B N"]) -> Int[Tensor, "B"]:
    """The number of places from the first that is true to the last; 0 if there is none."""
    places = torch.arange(1, changed.shape[1] + 1, device=changed.device) * changed
    first = torch.where(changed, places, changed.shape[1] + 1).amin(dim=1)
    return (places.amax(dim=1) - first + 1).clamp(min=0)
