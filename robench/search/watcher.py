"""Keeps the best point that any attack ever asked about. Attacks report nothing, so they can hide nothing."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ..problem.losses import margin
from ..problem.shapes import Inputs, Labels, Logits, Mask, PerExample, per_example
from ..problem.threats import ThreatModel


@dataclass
class Watcher:
    """Per lane, the member of the threat set with the highest margin since the lane was seated.

    Buffers of fixed shape, updated without reading the device. NaN logits are never a find; `nan`
    remembers that they occurred.
    """

    found: Mask  # some member fooled the model
    margin: PerExample  # of the best member; -inf until one was seen
    delta: Inputs  # the best member
    nan: Mask

    @classmethod
    def over(cls, x: Inputs) -> "Watcher":
        """A watcher of as many lanes as x has rows, having seen nothing."""
        zeros = torch.zeros_like(x.flatten(1)[:, 0])
        return cls(zeros.bool(), zeros - torch.inf, torch.zeros_like(x), zeros.bool())

    def forget(self, lanes: Int[Tensor, "L"]) -> None:
        """Start afresh on these lanes."""
        self.found.index_fill_(0, lanes, False)
        self.margin.index_fill_(0, lanes, -torch.inf)
        self.nan.index_fill_(0, lanes, False)

    def see(self, threat: ThreatModel, delta: Inputs, x: Inputs, logits: Logits, y: Labels, active: Mask) -> None:
        """Look at one point per lane. Lanes that are not active have no budget left: what they ask is not theirs."""
        value = margin(logits, y)
        nan = value.isnan()
        inside = active & threat.contains(x + delta, x) & ~nan
        fooled = inside & (logits.argmax(dim=1) != y)
        better = (inside & (value > self.margin)) | (fooled & ~self.found)
        self.margin = torch.where(better, value, self.margin)
        self.delta = torch.where(per_example(better, delta), delta, self.delta)
        self.found = self.found | fooled
        self.nan = self.nan | (active & nan)
