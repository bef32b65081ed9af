"""Accuracy against queries on the board: the steps of the figure, and a bound on their number."""

from bisect import bisect_right

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from robench.evidence.records import Claim, Evidence, PlannedAttack, PlannedThreat, Verdict
from robench.leaderboard.queries import MAX_STEPS, query_curves
from robench.results.queries import falls

from ..results.made import EVIDENCE, PLAN, clean, exhausted, plan
from .made import NAMES, board, recorded


def value(curve, queries):
    return curve.standing[bisect_right(curve.queries, queries) - 1]


def test_a_short_curve_is_that_of_the_figure():
    curves = query_curves(PLAN, EVIDENCE, "linf:0.3")
    assert [(c.attack, c.queries, c.standing) for c in curves] == [
        (f.attack, f.queries, f.standing) for f in falls(PLAN, EVIDENCE, "linf:0.3")
    ]
    assert [c.attack for c in curves] == ["pgd", "apgd"]


@given(st.integers(0, 2**32), st.integers(1, 400))
def test_a_long_curve_has_few_steps_and_never_lies_above_the_exact_one(seed, n):
    random = np.random.default_rng(seed)
    run = recorded(["B" * n])
    costs = random.integers(0, 3000, n)
    evidence = Evidence(
        tuple(map(clean, range(n))),
        tuple(Claim(i + 1, i, NAMES[0], "pgd(steps=40)", 0, -1, int(cost), 0) for i, cost in enumerate(costs)),
        tuple(Verdict(i + 1, True, "", "", 0.1, 0.5) for i in range(n)),
    )
    (curve,), (exact,) = query_curves(run.plan, evidence, NAMES[0]), falls(run.plan, evidence, NAMES[0])
    assert len(curve.queries) <= MAX_STEPS
    assert len(set(curve.queries)) == len(curve.queries) == len(curve.standing)
    assert (curve.queries[0], curve.queries[-1]) == (exact.queries[0], exact.queries[-1])
    assert curve.standing[-1] == exact.standing[-1]
    allowed = 2 * max(np.diff(-np.array((1.0, *exact.standing)))) + 2 / MAX_STEPS + (1 / n) * -(-n // (MAX_STEPS - 2))
    for queries in range(1, 3001, 7):
        gap = value(exact, queries) - value(curve, queries)
        assert 0 <= gap <= allowed


def test_a_search_that_another_find_ended_is_left_out():
    attack = PlannedAttack("pgd", "pgd(steps=40)", items=2)
    asked = plan(examples=(0, 1, 2, 3), threats=(PlannedThreat("linf:0.3", (attack,)),))
    evidence = Evidence(
        tuple(map(clean, range(4))),
        # 0 is broken by the attack and 1 by an image from a file; 2 stands; 3 is still searched
        (
            Claim(1, 0, "linf:0.3", attack.spec, 0, -1, 10, 9),
            Claim(2, 1, "linf:0.3", "claim(sha256='00')", 0, -1, 0, 0),
        ),
        (Verdict(1, True, "", "", 0.1, 0.5), Verdict(2, True, "", "", 0.1, 0.5)),
        (exhausted(1, 1), exhausted(2, 3), exhausted(3, 1)),
    )
    (curve,) = query_curves(asked, evidence, "linf:0.3")
    assert (curve.queries, curve.standing) == ((1, 10, 40), (0.75, 0.5, 0.5))


def test_curves_are_of_the_protocols_own_runs():
    one, other = recorded(["SSSS", "SSSB"]), recorded(["SBSS", "SSSS"], ("linf:0.3", "l1:10"))
    rows = {table.threats: table.models[0] for table in board(one, other).tables}
    (curve,) = rows[NAMES[:2]].threats[0].queries
    assert (curve.queries, curve.standing) == ((1, 40), (1.0, 1.0))
    (curve,) = rows["linf:0.3", "l1:10"].threats[0].queries
    assert (curve.queries, curve.standing) == ((1, 10, 40), (1.0, 0.75, 0.75))
