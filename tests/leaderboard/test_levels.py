"""Levels: what an example withstands at every twentieth of the radius, by strings, patterns and summaries."""

from fractions import Fraction
from itertools import product

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robench.evidence.records import Claim, Exhausted, PlannedAttack, Verdict
from robench.leaderboard.entries import LEVELS
from robench.leaderboard.levels import levels
from robench.leaderboard.patterns import at_levels, count_patterns, recompute
from robench.results.outcomes import outcomes
from robench.results.summarising import summarise
from robench.results.tally import curve_radii

from .made import PGD, board, recorded
from .test_patterns import expected, subsets

FMN = PlannedAttack("fmn", "fmn(steps=100)", items=1)
DDN = PlannedAttack("ddn", "ddn(steps=100)", items=1)


def curve_run(rows, threats=("linf:0.3", "l2:2"), **changes):
    return recorded(rows, threats, attack=FMN, curve=True, **changes)


def found_levels(*runs):
    """The levels of each threat in the last table, that with the fewest models or examples."""
    return [t.levels for t in board(*runs).tables[-1].models[0].threats]


def random_levels(seed):
    random = np.random.default_rng(seed)
    threats, n = random.integers(1, 4), random.integers(1, 30)
    letters = random.choice(list("SO" + LEVELS), size=(threats, n))
    letters[:, random.random(n) < 0.1] = "W"
    without = random.random(threats) < 0.2  # threats without levels have outcomes
    rows = [
        ["B" if bare and letter in LEVELS else letter for letter in row]
        for row, bare in zip(letters, without, strict=True)
    ]
    return ["".join(row) for row in rows]


def at(row, level):
    """The outcomes of a row of levels at one level, letter by letter."""
    order = {letter: place for place, letter in enumerate(LEVELS)}
    return "".join(("B" if order[x] <= level else "S") if x in order else x for x in row)


@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_patterns_of_levels_give_the_numbers_of_the_strings_at_every_radius(seed, random):
    rows = random_levels(seed)
    chosen = [random.randrange(21) for _ in rows]
    patterns = at_levels(count_patterns(rows), chosen)
    explicit = [at(row, level) for row, level in zip(rows, chosen, strict=True)]
    assert patterns == count_patterns(explicit)
    for subset in subsets(len(rows)):
        found, wanted = recompute(patterns, subset), expected(explicit, subset)
        assert (found.union, found.average, found.open) == (wanted[0], wanted[2], wanted[4])
        assert found.union_ci95 == pytest.approx(wanted[1], abs=6e-7)
        assert found.average_ci95 == pytest.approx(wanted[3], abs=6e-7)


def test_at_the_whole_radius_levels_are_the_outcomes_and_at_none_only_images_of_size_0_count():
    rows = ["W0kSO", "WBSBO"]
    assert at_levels(count_patterns(rows), (20, 20)) == count_patterns(["WBBSO", "WBSBO"])
    assert at_levels(count_patterns(rows), (0, 20)) == count_patterns(["WBSSO", "WBSBO"])


@pytest.mark.costly
@given(st.lists(st.fractions(0, 1), min_size=1, max_size=12))
def test_a_letter_is_the_smallest_twentieth_of_the_radius_that_holds_the_image(shares):
    """The comparison is with the radii of the summary's curve, as floats."""
    radius = Fraction(3, 10)
    sizes = [float(radius * share) for share in shares]
    run = curve_run(["B" * len(sizes)], size=lambda threat, example: sizes[example])
    radii = curve_radii(radius)
    (row,) = found_levels(run)
    assert row == "".join(next(letter for letter, r in zip(LEVELS, radii, strict=True) if size <= r) for size in sizes)


@pytest.mark.costly
@given(st.integers(0, 2**32))
@settings(max_examples=25)
def test_accuracy_by_level_is_the_curve_of_the_summary(seed):
    random = np.random.default_rng(seed)
    letters = ["".join(random.choice(list(known), size=20)) for known in ("SBO", "SB")]
    sizes = {"linf:0.3": random.uniform(0, 0.3, 20), "l2:2": random.uniform(0, 2, 20)}
    run = curve_run(letters, size=lambda threat, example: float(sizes[threat][example]))
    summary = summarise(run.plan, run.read()[0], "")
    patterns = count_patterns(found_levels(run))
    for level, place in product(range(21), range(2)):
        found = recompute(at_levels(patterns, (level, level)), (place,))
        assert found.union == summary.threats[place].curve.accuracy[level]


def test_a_size_that_rounding_put_above_the_radius_has_the_last_letter():
    assert found_levels(curve_run(["B"], size=0.3000001)) == ["k"]
    assert found_levels(curve_run(["B"], size=float("nan"))) == ["k"]


def test_a_run_without_the_search_for_the_smallest_has_no_levels():
    assert found_levels(recorded(["SB", "BB"], ("linf:0.3", "l2:2"))) == ["", ""]
    assert found_levels(recorded(["SB", "BB"], ("linf:0.3", "l2:2"), attack=FMN)) == ["", ""]


def test_attacks_in_a_fixed_ball_do_not_give_levels():
    assert found_levels(recorded(["SB"], curve=True)) == [""]


def test_threats_without_a_radius_have_no_levels():
    threats = ("linf:0.3", "rt:3px,30deg", "affine:linf:0.3+rt:3px,30deg")
    assert found_levels(curve_run(["SB", "BB", "BB"], threats)) == ["S7", "", ""]


def test_a_find_of_another_run_lowers_a_level():
    """The second run searches a smaller ball; 0.05 is less than 4/20 of 0.3, and the first run searched all three."""
    one, other = curve_run(["BBS"]), recorded(["BSB"], ("linf:0.1",), size=0.05)
    assert found_levels(one) == ["77S"]
    rows = [row for table in board(one, other).tables for row in table.models]
    (row,) = [row for row in rows if row.threats[0].threat == "linf:0.3"]
    assert row.threats[0].outcomes == "BBB"
    assert row.threats[0].levels == "474"


def test_a_run_with_another_protocol_gives_levels_if_it_covers_every_broken_example():
    table = recorded(["BBSO"], protocol="table")
    covering, partial = (curve_run([row], protocol="curve", size=0.2) for row in ("BBSO", "BOSO"))
    assert [t.levels for t in board(table, covering).tables[0].models[0].threats] == ["77SO"]
    assert [t.levels for t in board(table, partial).tables[0].models[0].threats] == [""]


def test_levels_of_a_table_need_the_same_threat():
    """A search in a larger ball may take another path, so it does not count as one in this ball."""
    rows = [row for table in board(recorded(["BB"]), curve_run(["BB"], ("linf:0.4",))).tables for row in table.models]
    assert {row.threats[0].threat: row.threats[0].levels for row in rows} == {"linf:0.3": "", "linf:0.4": "55"}


def test_every_minimum_norm_attack_must_have_ended():
    run = curve_run(["BS"])
    (planned,) = run.plan.threats
    plan = msgspec.structs.replace(run.plan, threats=(msgspec.structs.replace(planned, attacks=(FMN, DDN, PGD)),))
    evidence, _ = run.read()

    def row(claims=(), verdicts=(), exhausted=()):
        more = msgspec.structs.replace(
            evidence,
            claims=(*evidence.claims, *claims),
            verdicts=(*evidence.verdicts, *verdicts),
            exhausted=(*evidence.exhausted, *exhausted),
        )
        letters = outcomes(plan, more, "linf:0.3")
        return levels(plan, more, "linf:0.3", letters, [(plan, more)])

    assert row() == ""
    assert row(exhausted=[Exhausted(0, "linf:0.3", DDN.spec, 1, 5, 5)]) == "7O"
    smaller = Claim(9, 0, "linf:0.3", DDN.spec, 0, -1, 5, 5), Verdict(9, True, "", "", 0.014, 0.1)
    assert row(claims=smaller[:1], verdicts=smaller[1:]) == "1O"


def test_open_and_wrong_examples_need_no_search():
    assert found_levels(curve_run(["WOSB", "WOBS"], size=0.1)) == ["WOS7", "WO1S"]


def test_levels_do_not_depend_on_the_order_of_runs():
    runs = [curve_run(["BBS"]), curve_run(["BSS"], seed=1, size=0.02), recorded(["BBS"], size=0.25)]
    assert found_levels(*runs) == found_levels(*reversed(runs)) == ["27S"]
