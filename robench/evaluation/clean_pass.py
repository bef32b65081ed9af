"""The model's predictions before any attack. Examples that it gets wrong are never attacked."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import UserError
from ..evidence.records import Clean, Evidence, Failure
from ..evidence.referee import Predictions, Referee
from ..problem.split import Split

CLEAN_PASS = "clean pass"  # stands for the attack of failures before any attack


@dataclass(frozen=True)
class CleanPass:
    """Predictions of clean images, and the images on which the model raises, which stay open."""

    clean: tuple[Clean, ...] = ()
    failures: tuple[Failure, ...] = ()
    logits: Tensor = field(default_factory=lambda: torch.empty(0, 0))  # (N, K), failures included
    note: str = ""  # on the failures


def unknown_examples(split: Split, evidence: Evidence, path: str) -> Split:
    """The examples that the run file does not know yet, which may be none.

    Raises UserError where the file at `path` holds another image under one of their numbers.
    """
    known = {c.example: c.digest for c in evidence.clean}
    for number, digest in zip(split.numbers, split.digests, strict=True):
        if known.get(number, digest) != digest:
            raise UserError(
                f"{path} holds another image as example {number} of {split.name}; name another file with --run"
            )
    return split.take([row for row, number in enumerate(split.numbers) if number not in known]) if known else split


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
    failures = tuple(Failure(n, "", CLEAN_PASS, error) for n, error in errors.items())
    return CleanPass(_records(unknown, predictions, errors), failures, predictions.logits, note)


def _records(split: Split, predictions: Predictions, errors: Mapping[int, str]) -> tuple[Clean, ...]:
    columns = (split.numbers, split.digests, predictions.correct.tolist(), predictions.margin.tolist())
    rows = zip(*columns, strict=True)
    return tuple(Clean(n, digest, correct, gap, tied=gap == 0) for n, digest, correct, gap in rows if n not in errors)


def _refuse_not_finite(split: Split, logits: Tensor, errors: Mapping[int, str]) -> None:
    finite = zip(split.numbers, logits.isfinite().all(dim=1).tolist(), strict=True)
    bad = [number for number, good in finite if not good and number not in errors]
    if bad:
        raise UserError(
            f"the model answers NaN or infinite logits on {len(bad)} of {len(split)} clean images (first: example"
            f" {bad[0]} of {split.name}); search its forward pass for an overflow or a division by 0"
        )
