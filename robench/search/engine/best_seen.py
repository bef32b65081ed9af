"""Keeps the best image that any attack ever asked about. Attacks report nothing, so they can hide nothing."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...problem.losses import margin, misclassified
from ...problem.shapes import Inputs, Labels, Mask, PerExample, per_example
from ...problem.threats.base import N_PARAMS, TransformParams


@dataclass
class BestSeen:
    """Per lane, the best member of the threat set since the lane was seated: the one with the highest margin, or,
    where sizes are told, of those that fool the smallest.

    Buffers of fixed shape, updated without reading the device. NaN logits are never a find; `nan` remembers that
    they occurred.
    """

    found: Mask  # some member fooled the model
    fooled: Mask  # some image did, member or not
    rank: PerExample  # of the best member: its margin, or a find's size below 0; -inf until a member was seen
    bar: PerExample  # the margin a find must exceed: -inf until one was turned down
    x_adv: Inputs  # the best member
    params: TransformParams  # how it was made
    nan: Mask

    @classmethod
    def over(cls, x: Inputs) -> "BestSeen":
        """A watcher of as many lanes as x has rows, having seen nothing."""
        zeros = torch.zeros_like(x.flatten(1)[:, 0])
        no, nothing, params = zeros.bool(), zeros - torch.inf, x.new_zeros(len(x), N_PARAMS)
        return cls(no, no.clone(), nothing, nothing.clone(), torch.zeros_like(x), params, no.clone())

    def forget(self, slots: Int[Tensor, "L"]) -> None:
        """Start afresh on these lanes."""
        for mask in (self.found, self.fooled, self.nan):
            mask.index_fill_(0, slots, False)
        self.rank.index_fill_(0, slots, -torch.inf)
        self.bar.index_fill_(0, slots, -torch.inf)

    def turn_down(self, slots: Int[Tensor, "L"]) -> None:
        """What was found on these lanes does not fool in full precision: only a higher margin is a find again."""
        self.found.index_fill_(0, slots, False)
        self.bar.index_copy_(0, slots, self.rank[slots])

    def see(
        self,
        x_adv: Float[Tensor, "Q *D"],
        params: Float[Tensor, "Q 3"],
        inside: Bool[Tensor, "Q"],
        logits: Float[Tensor, "Q K"],
        y: Labels,
        active: Mask,
        size: Float[Tensor, "Q"] | None = None,
    ) -> None:
        """Look at the images asked about, Q / L per lane and those of a lane together, given which are members.

        With sizes, a smaller find is better. Lanes that are not active have no budget left: what they ask is not
        theirs.
        """
        width = len(x_adv) // len(y)
        y = y.repeat_interleave(width) if width > 1 else y
        self.look(x_adv, params, inside, margin(logits, y), misclassified(logits, y), active, size)

    def look(
        self,
        x_adv: Float[Tensor, "Q *D"],
        params: Float[Tensor, "Q 3"],
        inside: Bool[Tensor, "Q"],
        value: Float[Tensor, "Q"],
        fooled: Bool[Tensor, "Q"],
        active: Mask,
        size: Float[Tensor, "Q"] | None = None,
    ) -> None:
        """The same, when their margins and whether they fool the model are known already."""
        width = len(x_adv) // len(active)
        active, bar = (t.repeat_interleave(width) if width > 1 else t for t in (active, self.bar))
        nan = active & value.isnan()
        fooled = active & ~nan & fooled
        inside = active & inside & ~nan
        find = inside & fooled & (value > bar)
        rank = value if size is None else torch.where(find, -size.to(value.dtype), value)
        if width > 1:
            first = _foremost(torch.where(inside, rank, -torch.inf).view(-1, width), find.view(-1, width))
            rank, inside, find, x_adv, params = rank[first], inside[first], find[first], x_adv[first], params[first]
            nan, fooled = nan.view(-1, width).any(dim=1), fooled.view(-1, width).any(dim=1)
        better = (find & ~self.found) | (torch.where(self.found, find, inside) & (rank > self.rank))
        self.rank = torch.where(better, rank, self.rank)
        self.x_adv = torch.where(per_example(better, x_adv), x_adv, self.x_adv)
        self.params = torch.where(better[:, None], params, self.params)
        self.found = self.found | find
        self.fooled = self.fooled | fooled
        self.nan = self.nan | nan


def _foremost(rank: Float[Tensor, "L W"], find: Bool[Tensor, "L W"]) -> Int[Tensor, "L"]:
    """Of each lane's images the one of the highest rank, a find before any other; as a row among all images."""
    rank = torch.where(find.any(dim=1, keepdim=True) & ~find, -torch.inf, rank)
    slots, width = rank.shape
    return rank.argmax(dim=1) + width * torch.arange(slots, device=rank.device)
