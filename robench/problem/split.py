"""The examples under evaluation: ordered, hashed, and numbered by their place in the data set."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UserError
from .subsets import HELD_OUT, Sample, selected


def rows_of(text: str, source: "Source") -> Sequence[int]:
    """The rows that a text selects, as `subsets.selected` documents it.

    Raises UserError if the text cannot be read or reaches past the end, or if it needs labels that are not known in
    advance.
    """
    sample = Sample.parse(text)
    if sample and sample.kind == HELD_OUT and isinstance(source, Split) and source.origin is not None:
        raise UserError(f"--examples {text} of a part of {source.name} are not known; give all its images")
    return selected(text, source.name, source.numbers, lambda: labels_of(source))


def labels_of(source: "Source") -> Sequence[int]:
    """The label of each example. Raises UserError if they are not known before the examples are decoded."""
    if isinstance(source, Split):
        labels: list[int] = source.y.tolist()
        return labels
    if source.labels is None:
        raise UserError(f"the labels of {source.name} are not known before its images are read; use random:N instead")
    return source.labels


def shuffled_rows(count: int) -> list[int]:
    """All rows in a fixed order that mixes classes: sorted by the SHA-256 of their numbers, as on every machine."""
    return sorted(range(count), key=lambda row: hashlib.sha256(f"row {row}".encode()).digest())


def _refuse_others(name: str, **given: object) -> None:
    """Raises UserError for anything but tensors."""
    for what, values in given.items():
        if not isinstance(values, Tensor):
            kind = type(values).__name__
            raise UserError(f"{what} of {name} is {kind}, not a tensor; write torch.as_tensor({what})")


@dataclass(frozen=True, eq=False)
class Split:
    """Images in [0, 1] with their labels.

    An example keeps its number in a part of the split, so evidence about example 17 is about the same
    image whether 100 or 1000 examples were requested.
    """

    name: str  # data set and part: mnist:test
    x: Float[Tensor, "N C H W"]
    y: Int[Tensor, "N"]
    numbers: tuple[int, ...]  # the place of each example in the whole part
    classes: int
    origin: "Split | None" = None  # the whole part that this is cut from; None if it is whole itself
    class_names: Mapping[str, int] = field(default_factory=dict)  # the label of each class, if the data name them
    caution: str = ""  # what a reader of a number should know about the files; a note in the run

    @classmethod
    def whole(cls, name: str, x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"], classes: int) -> "Split":
        """Every example of a part, numbered from 0. Raises UserError for anything but tensors."""
        _refuse_others(name, x=x, y=y)
        return cls(name, x.contiguous(), y, tuple(range(len(y))), classes)

    @property
    def uncut(self) -> "Split":
        """The whole part, which is the same for all its halves and shards."""
        return self if self.origin is None else self.origin

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image: channels, height, width."""
        return tuple(self.x.shape[1:])

    def part(self, text: str) -> "Split":
        """The examples that `100`, `20:50` or `random:50@3` selects. Raises UserError as `rows_of` does."""
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
        """One hash for each example, of its label and its pixels as float32."""
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
    """Examples that are decoded on access, so that a hundred out of a million files cost a hundred."""

    name: str
    count: int
    decode: Callable[[Sequence[int]], Split]  # returns the examples in these rows, numbered by their rows
    labels: Sequence[int] | None = None  # of every example, if they are known before decoding

    def __len__(self) -> int:
        return self.count

    @property
    def numbers(self) -> Sequence[int]:
        """The row of each example."""
        return range(self.count)

    def part(self, text: str) -> Split:
        """The examples that `100`, `20:50` or `random:50@3` selects. Raises UserError as `rows_of` does."""
        return self.decode(rows_of(text, self))

    def take(self, rows: Sequence[int]) -> Split:
        """The examples in the given rows, in that order."""
        return self.decode(rows)


Source: TypeAlias = Split | Undecoded
"""Examples that can be taken by their rows."""
