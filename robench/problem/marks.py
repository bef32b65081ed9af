"""What is remembered about a tensor of steps, which has no derivative: what it was computed from."""

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .stand_in import Slope


@dataclass(frozen=True)
class Ranked:
    """How places in a table were chosen: those of the largest or smallest scores along the last dimension."""

    scores: Tensor  # (..., N)
    sign: float  # -1 where the smallest are chosen
    listed: bool  # whether the places are the K first, (..., K), or the first alone, (...)

    def mean(self, table: Tensor, places: Tensor) -> Tensor:
        """The entries (N, ...) of a table, averaged by a softmax of the scores, at each place; in float32 or float64.

        The temperature is the range of the 2K first scores, so that the entries just beyond the K first count too; but
        at least a hundredth of the spread of all scores, since some may be equal. Scores that are not finite are out.
        """
        scores = self.sign * (self.scores if self.scores.dtype == torch.float64 else self.scores.float())
        finite = scores.detach().isfinite()
        scores = scores.masked_fill(~finite, 0.0)
        best = scores.detach().masked_fill(~finite, -torch.inf).amax(dim=-1, keepdim=True).nan_to_num(0.0, 0.0, 0.0)
        below = (best - scores.detach()).masked_fill(~finite, 0.0)  # by which each score is worse than the best
        taken = min(2 * places.shape[-1] if self.listed else 2, scores.shape[-1])
        first = below.masked_fill(~finite, torch.inf).topk(taken, dim=-1, largest=False).values
        reach = first.masked_fill(first.isinf(), 0.0).amax(dim=-1, keepdim=True)
        spread = below.sum(dim=-1, keepdim=True) / finite.sum(dim=-1, keepdim=True).clamp(min=1)
        temperature = torch.maximum(reach, spread / 100)
        temperature = torch.where(temperature > 0, temperature, 1.0)
        weights = ((scores - best) / temperature).masked_fill(~finite, -1e30).softmax(dim=-1)
        entries = table.detach().to(scores.dtype).nan_to_num(0.0, 0.0, 0.0).reshape(len(table), -1)
        mean = (weights @ entries).view(*scores.shape[:-1], *table.shape[1:])
        return mean.unsqueeze(scores.ndim - 1).expand(*places.shape, *table.shape[1:]) if self.listed else mean


@dataclass(frozen=True)
class Mark:
    """What a tensor was computed from: a number, or scores that were ranked."""

    source: Tensor | None = None  # of the tensor's shape, with a derivative
    slope: Slope = 1.0  # with respect to it
    past: Tensor | None = None  # how far each number is past the middle of its step: of round(x), x - round(x)
    ranked: Ranked | None = None
    labels: Tensor | None = None  # whole numbers at the ranked places, of a table (N)


class Marks:
    """The marks of tensors, as long as these exist."""

    def __init__(self) -> None:
        self._marks: MutableMapping[Tensor, tuple[torch.Size, Mark]] = WeakTensorKeyDictionary()

    def put(self, tensor: Tensor, mark: Mark) -> Tensor:
        """Mark a tensor; returns it."""
        self._marks[tensor] = (tensor.shape, mark)
        return tensor

    def of(self, tensor: object) -> Mark:
        """The mark of a tensor; an empty one if it has none, or has been given another shape since."""
        if not isinstance(tensor, Tensor) or tensor not in self._marks:
            return Mark()
        shape, mark = self._marks[tensor]
        return mark if shape == tensor.shape else Mark()
