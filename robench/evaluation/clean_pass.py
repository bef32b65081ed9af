"""The model's predictions before any attack. Examples that it gets wrong are never attacked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..evidence.records import Clean, Failure
from ..evidence.referee import Predictions, Referee
from ..evidence.store import RunFile
from ..problem.shapes import Logits
from ..problem.split import Split
from ..results.parts import ascending

CLEAN_PASS = "clean pass"  # stands for the attack of failures before any attack


@dataclass(frozen=True)
class CleanPass:
    """Predictions of clean images, and the images on which the model raises, which stay open."""

    split: Split | None = None  # the images; None for none
    predictions: Predictions | None = None
    errors: Mapping[int, str] = field(default_factory=dict)  # what the model raises, by example
    note: str = ""  # on these

    def logits(self, first: int) -> Logits | None:
        """The logits of the first images; None where there are no predictions."""
        return None if self.predictions is None else self.predictions.logits[:first]

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The images on which the model raises."""
        return tuple(Failure(number, "", CLEAN_PASS, error) for number, error in self.errors.items())

    @property
    def answered(self) -> int:
        """The number of predictions."""
        return 0 if self.split is None else len(self.split) - len(self.errors)

    @property
    def wrong(self) -> int:
        """The number of wrong predictions."""
        if self.split is None or self.predictions is None:
            return 0
        missed = zip(self.split.numbers, self.predictions.correct.tolist(), strict=True)
        return sum(not correct for number, correct in missed if number not in self.errors)

    def records(self) -> Iterator[Clean]:
        """The predictions as records, made one by one."""
        if self.split is None or self.predictions is None:
            return
        columns = (self.split.numbers, self.split.digests, self.predictions.correct, self.predictions.margin)
        for number, digest, correct, gap in zip(*columns, strict=True):
            if number not in self.errors:
                margin = float(gap)
                yield Clean(number, digest, bool(correct), margin, tied=margin == 0)


@dataclass(frozen=True)
class KnownExamples:
    """Which examples of a split a run file knows."""

    known: NDArray[np.bool_]  # by row
    wrong: int  # of these, how many the model got wrong

    @classmethod
    def of(cls, split: Split, run: RunFile) -> "KnownExamples":
        """Reads the whole file in parts. Raises UserError where it holds another image under one of the numbers."""
        numbers, order = ascending(split.numbers)
        rows = np.arange(len(split)) if order is None else order
        known, wrong, others = np.zeros(len(split), bool), 0, list[int]()
        for some, evidence in run.parts(numbers):
            clean = {c.example: c for c in evidence.clean}
            for row, number in zip(rows[some].tolist(), numbers[some], strict=True):
                if (record := clean.get(number)) is not None:
                    known[row] = True
                    wrong += not record.correct
                    if record.digest != split.digests[row]:
                        others.append(row)
        if others:
            raise UserError(
                f"{run.path} holds another image as example {split.numbers[min(others)]} of {split.name}; name another"
                " file with --run"
            )
        return cls(known, wrong)

    def others(self, split: Split) -> Split:
        """The examples that the run file does not know yet, which may be none."""
        return split.take(np.flatnonzero(~self.known).tolist()) if self.known.any() else split


def predict_clean(referee: Referee, unknown: Split, total: int) -> CleanPass:
    """The predictions of one example or more; `total` examples are planned.

    Raises UserError when the model raises on every planned image, or answers NaN or infinity on any.
    """
    predictions = referee.predict(unknown.x, unknown.y)
    errors = {n: error for n, error in zip(unknown.numbers, predictions.errors, strict=False) if error}
    if len(errors) == total:
        first = unknown.numbers[0]
        raise UserError(
            f"the model raises on every clean image (example {first} of {unknown.name}: {errors[first]}); fix its"
            " forward pass, or choose other images with --data"
        )
    _refuse_not_finite(unknown, predictions.logits, errors)
    note = ""
    if errors:
        first = next(iter(errors))
        note = (
            f"the model raises on {len(errors)} of {total} clean images, which stay open (first: example {first}:"
            f" {errors[first]})"
        )
    return CleanPass(unknown, predictions, errors, note)


def _refuse_not_finite(split: Split, logits: Tensor, errors: Mapping[int, str]) -> None:
    finite = zip(split.numbers, logits.isfinite().all(dim=1).tolist(), strict=True)
    bad = [number for number, good in finite if not good and number not in errors]
    if bad:
        raise UserError(
            f"the model answers NaN or infinite logits on {len(bad)} of {len(split)} clean images (first: example"
            f" {bad[0]} of {split.name}); search its forward pass for an overflow or a division by 0"
        )
