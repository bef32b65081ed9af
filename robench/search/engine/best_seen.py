"""Keeps the best image of each search. It reads the queries, not an attack's report, so an attack can hide nothing."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...problem.losses import margin, misclassified
from ...problem.shapes import Inputs, Labels, Mask, PerExample, choose
from ...problem.threats.base import N_PARAMS, TransformParams


@dataclass
class BestSeen:
    """The best queried member of the threat set for each slot, since its search started.

    The best member has the highest margin. If sizes are given, it is the smallest of those that fool the model.

    Buffers have a fixed shape and are updated without reading from the device. NaN logits never count as fooled;
    `nan` records that they occurred.
    """

    found: Mask  # some member fooled the model
    fooled: Mask  # some image did, member or not
    rank: PerExample  # of the best member: its margin, or minus its size; -inf until a member was queried
    bar: PerExample  # margin that a new example must exceed; -inf until one was rejected
    x_adv: Inputs  # the best member
    params: TransformParams  # its transform parameters
    nan: Mask

    @classmethod
    def over(cls, x: Inputs, n_params: int = N_PARAMS) -> "BestSeen":
        """Empty buffers, one slot for each row of x."""
        zeros = torch.zeros_like(x.flatten(1)[:, 0])
        no, nothing, params = zeros.bool(), zeros - torch.inf, x.new_zeros(len(x), n_params)
        return cls(no, no.clone(), nothing, nothing.clone(), torch.zeros_like(x), params, no.clone())

    def reset(self, slots: Int[Tensor, "L"]) -> None:
        """Empty these slots for new searches."""
        for mask in (self.found, self.fooled, self.nan):
            mask.index_fill_(0, slots, False)
        self.rank.index_fill_(0, slots, -torch.inf)
        self.bar.index_fill_(0, slots, -torch.inf)

    def reject(self, slots: Int[Tensor, "L"]) -> None:
        """Reject the examples of these slots, which do not fool in float32: a new one needs a higher margin."""
        self.found.index_fill_(0, slots, False)
        self.bar.index_copy_(0, slots, self.rank[slots])

    def update(
        self,
        x_adv: Float[Tensor, "Q *D"],
        params: Float[Tensor, "Q P"],
        inside: Bool[Tensor, "Q"],
        logits: Float[Tensor, "Q K"],
        y: Labels,
        active: Mask,
        size: Float[Tensor, "Q"] | None = None,
    ) -> None:
        """Take in the queried images: Q / L for each of L slots, those of a slot next to each other.

        `inside` says which are members of the threat set. With `size`, a smaller adversarial example is better. Slots
        that are not `active` have no budget left: their images do not count.
        """
        per_slot = len(x_adv) // len(y)
        y = y.repeat_interleave(per_slot) if per_slot > 1 else y
        self.update_from_margins(x_adv, params, inside, margin(logits, y), misclassified(logits, y), active, size)

    def update_from_margins(
        self,
        x_adv: Float[Tensor, "Q *D"],
        params: Float[Tensor, "Q P"],
        inside: Bool[Tensor, "Q"],
        value: Float[Tensor, "Q"],
        fooled: Bool[Tensor, "Q"],
        active: Mask,
        size: Float[Tensor, "Q"] | None = None,
    ) -> None:
        """Do the same as `update`, given the margins and which images fool the model."""
        per_slot = len(x_adv) // len(active)
        active, bar = (t.repeat_interleave(per_slot) if per_slot > 1 else t for t in (active, self.bar))
        nan = active & value.isnan()
        fooled = active & ~nan & fooled
        inside = active & inside & ~nan
        adversarial = inside & fooled & (value > bar)
        rank = value if size is None else torch.where(adversarial, -size.to(value.dtype), value)
        if per_slot > 1:
            first = _best_of_slot(
                torch.where(inside, rank, -torch.inf).view(-1, per_slot), adversarial.view(-1, per_slot)
            )
            rank, inside, adversarial = rank[first], inside[first], adversarial[first]
            x_adv, params = x_adv[first], params[first]
            nan, fooled = nan.view(-1, per_slot).any(dim=1), fooled.view(-1, per_slot).any(dim=1)
        better = (adversarial & ~self.found) | (torch.where(self.found, adversarial, inside) & (rank > self.rank))
        self.rank = torch.where(better, rank, self.rank)
        self.x_adv = choose(better, x_adv, self.x_adv)
        self.params = torch.where(better[:, None], params, self.params)
        self.found = self.found | adversarial
        self.fooled = self.fooled | fooled
        self.nan = self.nan | nan


def _best_of_slot(rank: Float[Tensor, "L W"], adversarial: Bool[Tensor, "L W"]) -> Int[Tensor, "L"]:
    """The row, among all images, of each slot's highest rank; adversarial examples come before all others."""
    rank = torch.where(adversarial.any(dim=1, keepdim=True) & ~adversarial, -torch.inf, rank)
    slots, per_slot = rank.shape
    return rank.argmax(dim=1) + per_slot * torch.arange(slots, device=rank.device)
