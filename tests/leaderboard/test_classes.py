"""Accuracy by class: from labels that are known, and equal in sum to the numbers of the row."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robench.leaderboard.classes import class_results
from robench.leaderboard.collect import Background, boards
from robench.leaderboard.entries import ClassResult
from robench.results.outcomes import union
from robench.results.stats.shares import accuracy

from .made import recorded, same
from .test_patterns import random_rows


def rows_of(labels, *runs):
    (found,) = boards(runs, same, Background(labels=labels))
    return [row for table in found.tables for row in table.models]


def test_each_class_has_a_row_with_its_examples():
    run = recorded(["WSBSO", "WSSBS"])
    (row,) = rows_of(lambda data, digests: dict(zip(digests, (7, 7, 2, 2, 2), strict=True)), run)
    assert row.classes == (
        ClassResult(label=2, examples=3, clean=1.0, threats=(2 / 3, 2 / 3), union=1 / 3),
        ClassResult(label=7, examples=2, clean=1 / 2, threats=(1 / 2, 1 / 2), union=1 / 2),
    )


@given(st.integers(0, 2**32))
def test_the_classes_together_are_the_row(seed):
    rows = random_rows(seed)
    labels = np.random.default_rng(seed).integers(0, 4, len(rows[0])).tolist()
    found, n = class_results(labels, rows), len(labels)
    assert [c.label for c in found] == sorted(set(labels))
    assert sum(c.examples for c in found) == n
    for place, row in enumerate(rows):
        assert sum(c.threats[place] * c.examples for c in found) / n == pytest.approx(accuracy(row), abs=1e-12)
    assert sum(c.union * c.examples for c in found) / n == pytest.approx(accuracy(union(*rows)), abs=1e-12)
    assert sum(c.clean * c.examples for c in found) / n == pytest.approx(1 - rows[0].count("W") / n, abs=1e-12)


def test_labels_are_requested_with_the_digests_on_record():
    requested = []
    run = recorded(["SOB"])  # the second example was not reached
    rows_of(lambda data, digests: requested.append((data, dict(digests))), run)
    assert requested == [("mnist:test", {0: "digest 0", 1: "", 2: "digest 2"})]


def test_without_labels_there_are_no_classes():
    assert rows_of(lambda data, digests: None, recorded(["SB"]))[0].classes == ()
    assert [row.classes for row in rows_of(Background().labels, recorded(["SB"]))] == [()]


def test_a_table_in_another_order_has_the_labels_of_its_examples():
    run = recorded(["SB"])
    plan = msgspec.structs.replace(run.plan, examples=(1, 0))
    (row,) = rows_of(lambda data, digests: {0: 5, 1: 6}, type(run)(plan, run.read))
    assert [(c.label, c.threats) for c in row.classes] == [(5, (1.0,)), (6, (0.0,))]
