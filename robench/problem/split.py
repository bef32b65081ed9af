"""The examples a question is asked about: ordered, hashed, numbered by their place in the data set."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UserError, counted


def rows_of(text: str, source: "Source") -> range:
    """`100` is the first hundred rows, `20:50` are rows 20 to 49.

    Raises UserError when the text cannot be read or reaches past the end.
    """
    first, colon, last = text.partition(":")
    try:
        start, stop = (int(first or 0), int(last or len(source))) if colon else (0, int(first))
    except ValueError:
        raise UserError(f"--examples {text}: write a count like 100, or a slice like 20:50") from None
    if not 0 <= start < stop:
        raise UserError(f"--examples {text} is empty; write a count like 100, or a slice like 20:50")
    if stop > len(source):
        raise UserError(f"--examples {text} asks for more than the {counted(len(source), 'example')} of {source.name}")
    return range(start, stop)


def shuffled_rows(count: int) -> list[int]:
    """All rows in a fixed order that mixes classes: by the SHA-256 of their numbers, the same on every machine."""
    return sorted(range(count), key=lambda row: hashlib.sha256(f"row {row}".encode()).digest())


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
    class_names: Mapping[str, int] = field(default_factory=dict)  # the label of each, where the data name them

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
        """`100` is the first hundred examples, `20:50` those in rows 20 to 49. Raises UserError as `rows_of` does."""
        return self.take(rows_of(text, self))

    def take(self, rows: Sequence[int]) -> "Split":
        """The examples in the given rows, in that order."""
        i: slice | Tensor
        if isinstance(rows, range) and rows.step == 1:
            i = slice(rows.start, rows.stop)  # a view: nothing is copied
        else:
            i = torch.as_tensor(list(rows), dtype=torch.long)
        return replace(self, x=self.x[i], y=self.y[i], numbers=tuple(self.numbers[r] for r in rows), origin=self.uncut)

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


@dataclass(frozen=True, eq=False)
class Undecoded:
    """Examples that are decoded when they are taken, so that a hundred of a million files cost a hundred."""

    name: str
    count: int
    decode: Callable[[Sequence[int]], Split]  # the examples in these rows, numbered by them

    def __len__(self) -> int:
        return self.count

    @property
    def numbers(self) -> Sequence[int]:
        """The row of each example."""
        return range(self.count)

    def part(self, text: str) -> Split:
        """The rows that `100` or `20:50` names."""
        return self.decode(rows_of(text, self))

    def take(self, rows: Sequence[int]) -> Split:
        """The examples in the given rows, in that order."""
        return self.decode(rows)


Source: TypeAlias = Split | Undecoded
"""Examples that can be taken by their rows."""
