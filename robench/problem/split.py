"""The examples a question is asked about: ordered, hashed, numbered by their place in the data set."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UserError


@dataclass(frozen=True, eq=False)
class Split:
    """Images in [0, 1] with their labels.

    An example keeps its number when the split is cut, so evidence about example 17 is about the same
    image whether 100 or 1000 examples were asked for.
    """

    name: str  # data set and part: mnist:test
    x: Float[Tensor, "N C H W"]
    y: Int[Tensor, "N"]
    numbers: tuple[int, ...]  # the place of each example in the whole part
    classes: int
    origin: "Split | None" = None  # the whole part that it was cut from; None where it is whole itself

    @classmethod
    def whole(cls, name: str, x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"], classes: int) -> "Split":
        """Every example of a part, numbered from 0."""
        return cls(name, x.contiguous(), y, tuple(range(len(y))), classes)

    @property
    def uncut(self) -> "Split":
        """The whole part: the same for all halves and shards of it."""
        return self if self.origin is None else self.origin

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return tuple(self.x.shape[1:])

    def part(self, text: str) -> "Split":
        """`100` is the first hundred examples, `20:50` those numbered 20 to 49.

        Raises UserError when the text cannot be read or reaches past the end.
        """
        first, colon, last = text.partition(":")
        try:
            start, stop = (int(first or 0), int(last or len(self))) if colon else (0, int(first))
        except ValueError:
            raise UserError(f"--examples {text}: write a count like 100, or a slice like 20:50") from None
        if not 0 <= start < stop:
            raise UserError(f"--examples {text} is empty; write a count like 100, or a slice like 20:50")
        if stop > len(self):
            raise UserError(f"--examples {text} asks for more than the {len(self)} examples of {self.name}")
        return self.take(range(start, stop))

    def take(self, rows: Sequence[int]) -> "Split":
        """The examples in the given rows, in that order."""
        i: slice | Tensor
        if isinstance(rows, range) and rows.step == 1:
            i = slice(rows.start, rows.stop)  # a view: nothing is copied
        else:
            i = torch.as_tensor(list(rows), dtype=torch.long)
        return Split(self.name, self.x[i], self.y[i], tuple(self.numbers[r] for r in rows), self.classes, self.uncut)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """One hash per example, of its label and its pixels as float32."""
        pixels = self.x.to("cpu", torch.float32).contiguous().numpy()
        labels = self.y.tolist()
        return tuple(
            hashlib.sha256(f"{label} {image.shape} ".encode() + image.tobytes()).hexdigest()[:16]
            for label, image in zip(labels, pixels, strict=True)
        )

    @cached_property
    def sha256(self) -> str:
        """The hash of these examples in this order."""
        return hashlib.sha256("\n".join(self.digests).encode()).hexdigest()
