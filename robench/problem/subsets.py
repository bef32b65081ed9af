"""Which examples a text such as `100`, `20:50`, `random:500@3`, `stratified:500@3` or `held-out:500` selects."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..errors import UserError, counted

RANDOM, STRATIFIED, HELD_OUT = "random", "stratified", "held-out"
TRAINING_PARTS = ("train", "extra", "rest")
HELD_OUT_SEED = 0  # the same held-out images in every training on this data
FORMS = (
    "write a count like 100, a slice like 20:50, random:500, stratified:500, random:500@3 with the seed 3, or, of"
    " training images, held-out:500"
)
ENDLESS = 2**63  # examples: more than any data set has
_SAMPLE = re.compile(rf"({RANDOM}|{STRATIFIED}|{HELD_OUT}):([0-9]{{1,9}})(?:@([0-9]{{1,9}}))?")


@dataclass(frozen=True)
class Sample:
    """A subset chosen by a seed: at random, with every class in its share of the whole, or as `held_out` chooses.

    The choice depends on the seed and on the numbers and labels of the examples, not on a library's generator, except
    for images held out. A larger sample of the same seed contains every smaller one.
    """

    kind: str
    count: int
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.count}" + ("" if self.kind == HELD_OUT else f"@{self.seed}")

    @classmethod
    def parse(cls, text: str) -> "Sample | None":
        """The sample that a text names; None for another text. Raises UserError if it begins like one and is none."""
        if text.partition(":")[0] not in (RANDOM, STRATIFIED, HELD_OUT):
            return None
        found = _SAMPLE.fullmatch(text)
        if found is None or (found[1] == HELD_OUT and found[3]):
            raise UserError(f"--examples {text} cannot be read; {FORMS}")
        return cls(found[1], int(found[2]), int(found[3] or 0))

    @property
    def about(self) -> str:
        """How the examples were chosen, for a note."""
        if self.kind == HELD_OUT:
            return f"chosen with --examples {self}: robench train holds them out with --validation {self.count} or more"
        share = "" if self.kind == RANDOM else ", every class in its share"
        return f"sampled with --examples {self}{share}"

    def rows(self, numbers: Sequence[int], labels: Callable[[], Sequence[int]]) -> list[int]:
        """The rows of the chosen examples, in increasing order. `labels` is called only if the classes matter."""
        if self.kind == HELD_OUT:
            return sorted(held_out(len(numbers), self.count))
        order = sorted(range(len(numbers)), key=lambda row: self._noise(numbers[row]))
        if self.kind == STRATIFIED:
            order = _spread(order, labels())
        return sorted(order[: self.count])

    def _noise(self, number: int) -> bytes:
        return hashlib.sha256(f"sample {self.seed} {number}".encode()).digest()


def _spread(order: Sequence[int], labels: Sequence[int]) -> list[int]:
    """The rows in an order whose every beginning holds each class in its share of the whole, rounded.

    The k-th row of a class of n comes at (k + 1/2) / n, so the n-th share is rounded as in Webster's method.
    """
    members: dict[int, list[int]] = {}
    for row in order:
        members.setdefault(labels[row], []).append(row)
    place = {row: (2 * k + 1) / len(rows) for rows in members.values() for k, row in enumerate(rows)}
    return sorted(order, key=lambda row: place[row])  # stable: classes of one size keep the random order


def selected(text: str, name: str, numbers: Sequence[int], labels: Callable[[], Sequence[int]]) -> Sequence[int]:
    """The rows that a text selects: `100` the first hundred, `20:50` rows 20 to 49, or those of a sample.

    `name` is that of the data, `numbers` and `labels` are those of its examples. Raises UserError if the text cannot
    be read or reaches past the end.
    """
    whole = len(numbers)
    start, stop = _bounds(text, whole)
    if stop > whole:
        raise UserError(f"--examples {text} reaches past the {counted(whole, 'example')} of {name}")
    sample = Sample.parse(text)
    if sample and sample.kind == HELD_OUT and not of_training(name):
        raise UserError(
            f"--examples {text} are images of a training set, such as mnist:train or my.npz:rest, and {name} is none;"
            " name one with --data"
        )
    return sample.rows(numbers, labels) if sample else range(start, stop)


def of_training(name: str) -> bool:
    """Whether the data of this name are training images."""
    return name.rpartition(":")[2] in TRAINING_PARTS


def held_out(examples: int, count: int) -> frozenset[int]:
    """The rows that a training holds out for validation: `count` of a training set of this size."""
    shuffled = torch.randperm(examples, generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    return frozenset(shuffled[:count].tolist())


def refuse_unreadable(text: str) -> None:
    """Raises UserError for a text that selects nothing, whatever the data are."""
    _bounds(text, ENDLESS)


def _bounds(text: str, whole: int) -> tuple[int, int]:
    """The first row and one past the last; of a sample, 0 and its size. Raises UserError if that is none."""
    sample = Sample.parse(text)
    start, stop = (0, sample.count) if sample else _slice(text, whole)
    if not 0 <= start < stop:
        raise UserError(f"--examples {text} is empty; {FORMS}")
    return start, stop


def wanted(text: str) -> int | None:
    """How many examples a count or a sample selects; None for a slice."""
    sample = Sample.parse(text)
    return sample.count if sample else int(text) if text.isdigit() else None


def _slice(text: str, whole: int) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    try:
        return (int(first or 0), int(last or whole)) if colon else (0, int(first))
    except ValueError:
        raise UserError(f"--examples {text}: {FORMS}") from None
