"""Counts of patterns give the numbers of the summary, for every subset of threats, in Python and in the page."""

import json
import shutil
import subprocess
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import robench
from robench.leaderboard.entries import LEVELS
from robench.leaderboard.patterns import count_patterns, recompute
from robench.results.outcomes import union
from robench.results.stats import shares
from robench.results.stats.comparison import mcnemar

SCRIPT = Path(robench.__file__).parent / "leaderboard" / "static" / "numbers.js"


def subsets(count):
    places = range(count)
    return list(chain.from_iterable(combinations(places, size) for size in range(1, count + 1)))


def random_rows(seed):
    """Outcomes of a few examples under a few threats: W under all or none."""
    random = np.random.default_rng(seed)
    threats, n = random.integers(1, 5), random.integers(1, 40)
    weights = random.dirichlet([1, 1, 0.3])
    letters = random.choice(list("SBO"), p=weights, size=(threats, n))
    letters[:, random.random(n) < 0.1] = "W"
    return ["".join(row) for row in letters]


def expected(rows, chosen):
    """Union, its interval, average, its interval and open examples, from strings."""
    rows = [rows[place] for place in chosen]
    joint = union(*rows)
    interval = shares.interval(joint.count("S"), joint.count("O"), len(joint))
    return shares.accuracy(joint), interval, *shares.mean(rows), joint.count("O")


@pytest.mark.costly
@given(st.integers(0, 2**32))
def test_patterns_give_the_numbers_of_the_strings_for_every_subset_of_threats(seed):
    rows = random_rows(seed)
    patterns = count_patterns(rows)
    for chosen in subsets(len(rows)):
        found, wanted = recompute(patterns, chosen), expected(rows, chosen)
        assert (found.union, found.average, found.open) == (wanted[0], wanted[2], wanted[4])
        assert found.union_ci95 == pytest.approx(wanted[1], abs=6e-7)
        assert found.average_ci95 == pytest.approx(wanted[3], abs=6e-7)


def test_patterns_sum_to_the_number_of_examples():
    assert count_patterns(["SSBW", "SBBW"]) == {"BB": 1, "SB": 1, "SS": 1, "WW": 1}


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="runs the page's script with node, not installed")


def in_node(expression, values):
    """The expression, a function of the script's functions and one value, of each value."""
    program = f"""
        const page = require({json.dumps(str(SCRIPT))});
        const values = JSON.parse(require("fs").readFileSync(0));
        console.log(JSON.stringify(values.map((value) => ({expression})(page, value))));
    """
    done = subprocess.run(["node", "-e", program], input=json.dumps(values), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@needs_node
def test_the_script_of_the_page_gives_pythons_numbers_for_every_subset_of_threats():
    cases = [(count_patterns(rows), chosen) for rows in map(random_rows, range(60)) for chosen in subsets(len(rows))]
    for (patterns, chosen), found in zip(cases, in_node("(p, v) => p.recompute(...v)", cases), strict=True):
        wanted = recompute(patterns, chosen)
        assert (found["union"], found["average"], found["unionOpen"]) == (wanted.union, wanted.average, wanted.open)
        assert found["unionInterval"] == pytest.approx(wanted.union_ci95, abs=1e-12)
        assert found["averageInterval"] == pytest.approx(wanted.average_ci95, abs=1e-12)


@needs_node
def test_the_script_rounds_percent_as_python_does():
    values = [k / n for n in (1, 3, 7, 16, 200, 400, 800, 1000, 10000) for k in range(min(n, 900) + 1)]
    assert in_node("(p, v) => p.percent(v)", values) == [f"{100 * value:.1f}" for value in values]


@needs_node
def test_the_script_has_the_exact_p_value_of_mcnemar():
    cases = [(0, 0), (1, 0), (13, 9), (30, 9), (0, 40), (500, 430), (5000, 4600)]
    assert in_node("(p, v) => p.mcnemar(...v)", cases) == pytest.approx([mcnemar(*c) for c in cases], rel=1e-9)


@needs_node
@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ((13, 9, 0), "not decisive: 13 against 9 examples, p = 0.52"),
        ((30, 9, 0), "A is better: 30 against 9 examples, p = 0.001"),
        ((9, 30, 2), "B is better: 30 against 9 examples, p = 0.001; 2 open examples are left out"),
        ((0, 0, 0), "no difference: no decided example separates the two"),
        ((0, 60, 0), "B is better: 60 against 0 examples, p < 0.0001"),
    ],
)
def test_a_comparison_is_one_plain_sentence(counts, sentence):
    first, second, left_out = counts
    value = {"first": first, "second": second, "open": left_out}
    assert in_node('(p, v) => p.verdict("A", "B", v)', [value]) == [sentence]


@needs_node
def test_the_script_counts_decided_pairs_as_python_does():
    cases, wanted = [], []
    for seed in range(40):
        one = random_rows(seed)
        random = np.random.default_rng(seed + 1000)
        other = ["".join(random.permutation(list(row))) for row in one]
        chosen = sorted({0, len(one) - 1})
        a, b = (union(*(rows[place] for place in chosen)) for rows in (one, other))
        decided = [(x == "S", y == "S") for x, y in zip(a, b, strict=True) if "O" not in (x, y)]
        cases.append((one, other, chosen))
        wanted.append([decided.count((True, False)), decided.count((False, True)), len(a) - len(decided)])
    counts = "p.pairs(p.under(a, c), p.under(b, c))"
    expression = f"(p, [a, b, c]) => {{ const n = {counts}; return [n.first, n.second, n.open]; }}"
    assert in_node(expression, cases) == wanted


def random_levels(seed):
    """Levels of a few examples under a few threats; a threat without levels has outcomes in their place."""
    random = np.random.default_rng(seed)
    threats, n = random.integers(1, 4), random.integers(1, 30)
    letters = random.choice(list(f"SO{LEVELS}"), size=(threats, n))
    letters[0, random.random(n) < 0.2] = "B"
    letters[:, random.random(n) < 0.1] = "W"
    return ["".join(row) for row in letters]


def within(row, level):
    """The outcomes within so many twentieths of the radius, letter by letter."""
    return "".join("SB"[LEVELS.index(letter) <= level] if letter in LEVELS else letter for letter in row)


@needs_node
def test_the_script_gives_pythons_numbers_within_any_radius():
    random = np.random.default_rng(0)
    cases = []
    for rows in map(random_levels, range(100)):
        steps = random.integers(0, 21, len(rows)).tolist()
        cases.append((rows, steps, sorted({*random.integers(0, len(rows), 2).tolist()})))
    found = in_node(
        """(p, [rows, steps, chosen]) => {
            const prepared = p.prepare(p.setsWithin(rows, steps), rows.length);
            const strings = rows.map((row, place) => p.within(row, steps[place]));
            return [strings, p.recomputed(prepared, chosen), p.single(prepared, chosen[0])];
        }""",
        cases,
    )
    for (rows, steps, chosen), (strings, now, (share, interval, still_open)) in zip(cases, found, strict=True):
        explicit = [within(row, step) for row, step in zip(rows, steps, strict=True)]
        assert strings == explicit
        patterns = count_patterns(explicit)
        wanted = recompute(patterns, chosen)
        assert (now["union"], now["average"], now["unionOpen"]) == (wanted.union, wanted.average, wanted.open)
        assert now["averageInterval"] == pytest.approx(wanted.average_ci95, abs=1e-12)
        only = recompute(patterns, chosen[:1])
        assert (share, still_open) == (only.union, only.open)
        assert interval == pytest.approx(only.union_ci95, abs=1e-12)


@needs_node
def test_the_script_reads_the_numbers_of_examples_from_slices():
    assert in_node("(p, v) => p.exampleNumbers(v)", ["0:3 7:8", "", "5:6"]) == [[0, 1, 2, 7], [], [5]]


@needs_node
def test_the_script_reads_sets_as_the_page_has_them():
    assert in_node("(p, v) => [...p.parseSets(v)]", ["0 12 3 5", "7 1"]) == [[[0, 12], [3, 5]], [[7, 1]]]
