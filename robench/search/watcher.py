"""Keeps the best point that any attack ever asked about. Attacks report nothing, so they can hide nothing."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..problem.losses import margin
from ..problem.shapes import Inputs, Labels, Mask, PerExample, per_example


@dataclass
class Watcher:
    """Per lane, the member of the threat set with the highest margin since the lane was seated.

    Buffers of fixed shape, updated without reading the device. NaN logits are never a find; `nan`
    remembers that they occurred.
    """

    found: Mask  # some member fooled the model
    margin: PerExample  # of the best member; -inf until one was seen
    bar: PerExample  # the margin a find must exceed: -inf until one was turned down
    delta: Inputs  # the best member
    nan: Mask

    @classmethod
    def over(cls, x: Inputs) -> "Watcher":
        """A watcher of as many lanes as x has rows, having seen nothing."""
        zeros = torch.zeros_like(x.flatten(1)[:, 0])
        nothing = zeros - torch.inf
        return cls(zeros.bool(), nothing, nothing.clone(), torch.zeros_like(x), zeros.bool())

    def forget(self, lanes: Int[Tensor, "L"]) -> None:
        """Start afresh on these lanes."""
        self.found.index_fill_(0, lanes, False)
        self.margin.index_fill_(0, lanes, -torch.inf)
        self.bar.index_fill_(0, lanes, -torch.inf)
        self.nan.index_fill_(0, lanes, False)

    def turn_down(self, lanes: Int[Tensor, "L"]) -> None:
        """What was found on these lanes does not fool in full precision: only a higher margin is a find again."""
        self.found.index_fill_(0, lanes, False)
        self.bar.index_copy_(0, lanes, self.margin[lanes])

    def see(
        self,
        delta: Float[Tensor, "Q *D"],
        inside: Bool[Tensor, "Q"],
        logits: Float[Tensor, "Q K"],
        y: Labels,
        active: Mask,
    ) -> None:
        """Look at the points asked about, Q / L per lane and those of a lane together, given which are members.

        Lanes that are not active have no budget left: what they ask is not theirs.
        """
        width = len(delta) // len(y)
        y, active, bar = (t.repeat_interleave(width) if width > 1 else t for t in (y, active, self.bar))
        value = margin(logits, y)
        nan = active & value.isnan()
        inside = active & inside & ~nan
        fooled = inside & (logits.argmax(dim=1) != y) & (value > bar)
        if width > 1:
            first = _foremost(torch.where(inside, value, -torch.inf).view(-1, width), fooled.view(-1, width))
            value, inside, fooled, delta = value[first], inside[first], fooled[first], delta[first]
            nan = nan.view(-1, width).any(dim=1)
        better = (inside & (value > self.margin)) | (fooled & ~self.found)
        self.margin = torch.where(better, value, self.margin)
        self.delta = torch.where(per_example(better, delta), delta, self.delta)
        self.found = self.found | fooled
        self.nan = self.nan | nan


def _foremost(value: Float[Tensor, "L W"], fooled: Bool[Tensor, "L W"]) -> Int[Tensor, "L"]:
    """Of each lane's points the one with the highest margin, a find before any other; as a row among all points."""
    value = torch.where(fooled.any(dim=1, keepdim=True) & ~fooled, -torch.inf, value)
    lanes, width = value.shape
    return value.argmax(dim=1) + width * torch.arange(lanes, device=value.device)
