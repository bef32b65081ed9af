"""How much an image is padded before a convolution or pooling."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..layer import refuse_large
from ..node import Node


@dataclass(frozen=True)
class Padding:
    """The pixels before and behind each axis; or, with `auto`, as many as the strides need for the usual size."""

    before: tuple[int, ...]
    behind: tuple[int, ...]
    auto: str  # SAME_UPPER, SAME_LOWER or empty
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]

    def symmetric(self) -> tuple[int, ...] | None:
        """The pixels on each side of each axis, if they are the same for images of every size."""
        return self.before if not self.auto and self.before == self.behind else None

    def sides(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """The pixels before and behind each axis of an image of these sizes."""
        if not self.auto:
            return list(zip(self.before, self.behind, strict=True))
        found = []
        for size, kernel, stride, dilation in zip(sizes, self.kernel, self.strides, self.dilations, strict=True):
            total = max(((size - 1) // stride) * stride + (kernel - 1) * dilation + 1 - size, 0)
            smaller, larger = total // 2, total - total // 2
            found.append((smaller, larger) if self.auto == "SAME_UPPER" else (larger, smaller))
        return found


def padding_of(node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Padding:
    """The padding that a node declares."""
    auto = node.text("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise node.refused(f"has auto_pad={auto!r}")
    rank = len(kernel)
    pads = node.integers("pads", [0] * (2 * rank))
    if auto != "NOTSET":
        pads = (0,) * (2 * rank)
    if len(pads) != 2 * rank or min(pads) < 0:
        raise node.refused(f"has pads of {list(pads)}")
    own = auto if auto.startswith("SAME") else ""
    return Padding(tuple(pads[:rank]), tuple(pads[rank:]), own, tuple(kernel), tuple(strides), tuple(dilations))


def padded(x: Tensor, sides: Sequence[tuple[int, int]], value: float) -> Tensor:
    """The images with `value` around them, on the last axes."""
    if not any(map(any, sides)):
        return x
    refuse_large([*x.shape[: -len(sides)], *(n + sum(s) for n, s in zip(x.shape[-len(sides) :], sides, strict=True))])
    return F.pad(x, [pixels for side in reversed(sides) for pixels in side], value=value)
