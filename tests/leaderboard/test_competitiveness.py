"""Competitiveness and stability: hand-made numbers, the definitions word for word, and what has no score."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robench.leaderboard.competitiveness import competitiveness, seen_attacks, stability
from robench.leaderboard.entries import CardFacts

from .made import NAMES, board, recorded
from .test_levels import curve_run


def scores(*runs):
    """Ratios and constant by the name of the model, in the first table."""
    return {
        row.name: (row.competitiveness, row.competitiveness_worst, row.stability)
        for row in board(*runs).tables[0].models
    }


def test_ratios_are_to_the_best_of_the_table_with_clean_among_them():
    """Clean 1 and 3/4 of 1; linf 1/2 and 1/4; l2 1/4 and 1/2."""
    found = scores(recorded(["SSBB", "SBBB"], name="a"), recorded(["WSBB", "WSSB"], name="b"))
    assert found["a"] == ((1 + 1 + 1 / 2) / 3, 1 / 2, None)
    assert found["b"] == ((3 / 4 + 1 / 2 + 1) / 3, 1 / 2, None)


def test_chosen_threats_alone_count():
    rows = [(1.0, 0.5, 0.0), (0.5, 0.25, 0.0)]
    assert competitiveness(rows, ()) == [(1.0, 1.0), (0.5, 0.5)]
    assert competitiveness(rows, (0,)) == [(1.0, 1.0), (0.5, 0.5)]
    assert competitiveness(rows, (0, 1)) == [None, None]  # no model withstands the second threat


def test_a_model_without_a_final_number_has_no_ratio_and_still_is_a_reference():
    assert competitiveness([(1.0, None), (1.0, 0.5), (0.5, 0.5)], (0,)) == [None, (1.0, 1.0), (0.75, 0.5)]
    assert competitiveness([(1.0, 0.8, None), (1.0, 0.4, 0.1), (1.0, 0.4, 0.1)], (0, 1))[1] == ((1 + 0.5 + 1) / 3, 0.5)
    found = scores(recorded(["SO"], name="a"), recorded(["SB"], name="b"), recorded(["SB"], name="c"))
    assert found == {"a": (None, None, None), "b": (1.0, 1.0, None), "c": (1.0, 1.0, None)}


def test_a_model_alone_has_no_score():
    assert scores(recorded(["SB"])) == {"net": (None, None, None)}


@given(st.integers(0, 2**32))
def test_ratios_follow_the_definition(seed):
    random = np.random.default_rng(seed)
    models, threats = random.integers(2, 6), random.integers(1, 5)
    table = random.integers(1, 101, (models, threats + 1)) / 100
    chosen = sorted(random.permutation(threats)[: random.integers(1, threats + 1)].tolist())
    used = table[:, [0, *(place + 1 for place in chosen)]]
    ratios = used / used.max(axis=0)
    for found, row in zip(competitiveness(table.tolist(), chosen), ratios, strict=True):
        assert found.average == pytest.approx(row.mean(), abs=1e-12)
        assert found.worst == row.min()
        assert 0 < found.worst <= found.average <= 1


def by_definition(examples, clean, levels, seen, chosen):
    """SC of every model, by loops over all pairs of attacks."""
    attacks = ["none", *((t, k) for t in chosen for k in range(1, 21))]
    accuracy = [
        {a: (clean[m] if a == "none" else levels[m][a[0]][a[1]]) / examples for a in attacks} for m in range(len(clean))
    ]
    best = {a: max(row[a] for row in accuracy) for a in attacks}
    found = []
    for row, own in zip(accuracy, seen, strict=True):
        steps = [
            abs(row[p] - row[q]) / abs(best[p] - best[q])
            for p in attacks
            for q in attacks
            if (p == "none" or p in own) and 1e-9 < abs(best[p] - best[q]) < 0.03 - 1e-9
        ]
        found.append(max(steps, default=None))
    return found


@given(st.integers(0, 2**32))
def test_the_constant_follows_the_definition(seed):
    random = np.random.default_rng(seed)
    models, threats, examples = random.integers(2, 4), random.integers(1, 3), 200
    clean = random.integers(150, 201, models).tolist()
    levels = [[sorted(random.integers(0, c + 1, 21).tolist(), reverse=True) for _ in range(threats)] for c in clean]
    seen = [{(0, k) for k in range(1, random.integers(1, 20))} for _ in range(models)]
    found = stability(examples, clean, levels, seen, range(threats))
    for one, other in zip(found, by_definition(examples, clean, levels, seen, range(threats)), strict=True):
        assert one == (None if other is None else pytest.approx(other))


def test_a_model_without_levels_without_a_card_or_with_everything_seen_has_no_constant():
    row = list(range(100, 79, -1))
    everything = {(0, k) for k in range(1, 21)}
    found = stability(100, [100] * 4, [[row], [row], [row], [None]], [set(), None, everything, set()], (0,))
    assert found == [1.0, None, None, None]
    assert stability(100, [100, 100], [[row], [None]], [set(), set()], (0,)) == [None, None]
    assert stability(100, [100, None], [[row], [row]], [set(), set()], (0,)) == [None, None]


def test_training_in_a_ball_has_seen_the_levels_inside_it():
    def seen(*trained_on):
        (table,) = board(recorded(["SB", "SB"], card=CardFacts(trained_on=trained_on))).tables
        return seen_attacks(table.models[0])

    assert seen() == set()
    assert seen("linf:0.3") == {(0, k) for k in range(1, 21)}
    assert seen("linf:0.15", "rt:3px,30deg", "l2:1/2") == {(0, k) for k in range(1, 11)} | {(1, k) for k in range(1, 6)}
    assert seen_attacks(board(recorded(["SB"])).tables[0].models[0]) is None


def test_a_board_has_the_constant_where_runs_have_curves():
    """The reference loses one example of a hundred per level; the other model loses 60 at level 2."""
    n, card = 100, CardFacts(trained_on=("l1:10",))
    one = curve_run(["B" * 20 + "S" * 80], NAMES[:1], card=card, size=lambda t, e: 0.3 * (e + 1) / 20 - 1e-9, name="a")
    other = curve_run(["B" * 60 + "S" * 40], NAMES[:1], card=card, size=0.02, name="b", seed=1)
    found = scores(one, other)
    assert found["a"][2] == 1.0
    assert found["b"][2] == pytest.approx(60 / 2)
    assert n == board(one, other).tables[0].examples
