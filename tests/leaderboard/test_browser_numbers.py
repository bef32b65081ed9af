"""The functions of the page give Python's numbers, on many random tables at once."""

import math
from itertools import chain, combinations

import numpy as np
import pytest

from robench.leaderboard.patterns import at_levels, count_patterns, recompute
from robench.results.outcomes import union
from robench.results.stats.comparison import mcnemar

from .browser import opened
from .everything import levels

pytestmark = pytest.mark.processes

SEEDS = 60


@pytest.fixture(scope="module")
def script(browser, made_site):
    """A page whose functions are called."""
    with opened(browser, made_site.address, "mnist-test.html") as ready:
        yield ready


def random_rows(seed):
    """Outcomes under one to six threats: W under all or none, sometimes few examples, sometimes none open."""
    random = np.random.default_rng(seed)
    threats, n = int(random.integers(1, 7)), int(random.integers(1, random.choice([5, 60, 400])))
    weights = random.dirichlet([1, 1, 0.3])
    if seed % 3 == 0:
        weights = np.array([weights[0], 1 - weights[0], 0])
    letters = random.choice(list("SBO"), p=weights, size=(threats, n))
    letters[:, random.random(n) < random.choice([0, 0.1, 0.9])] = "W"
    return ["".join(row) for row in letters]


def subsets(count):
    return list(chain.from_iterable(combinations(range(count), size) for size in range(1, count + 1)))


def test_union_and_average_of_every_subset_of_threats_equal_pythons_floats(script):
    cases = [(count_patterns(rows), chosen) for rows in map(random_rows, range(SEEDS)) for chosen in subsets(len(rows))]
    assert len(cases) > 500
    found = script.evaluate("(cases) => cases.map(([patterns, chosen]) => recompute(patterns, chosen))", cases)
    texts = script.evaluate(
        "(found) => found.map((f) => [f.union, f.average, ...f.unionInterval, ...f.averageInterval].map(percent))",
        found,
    )
    for (patterns, chosen), numbers, text in zip(cases, found, texts, strict=True):
        wanted = recompute(patterns, chosen)
        assert (numbers["union"], numbers["average"], numbers["unionOpen"]) == (
            wanted.union,
            wanted.average,
            wanted.open,
        )
        assert numbers["unionInterval"] == pytest.approx(wanted.union_ci95, abs=1e-12)
        assert numbers["averageInterval"] == pytest.approx(wanted.average_ci95, abs=1e-12)
        shares = (wanted.union, wanted.average, *wanted.union_ci95, *wanted.average_ci95)
        assert text == [f"{100 * share:.1f}" for share in shares]


def test_numbers_within_smaller_radii_equal_pythons_floats(script):
    cases = []
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        rows = [levels(row, random) if random.random() < 0.7 else row for row in random_rows(seed)]
        steps = [int(step) for step in random.integers(0, 21, size=len(rows))]
        cases += [(rows, steps, chosen) for chosen in subsets(len(rows))]
    found = script.evaluate(
        """(cases) => cases.map(([rows, steps, chosen]) =>
            recomputed(prepare(setsWithin(rows, steps), rows.length), chosen))""",
        cases,
    )
    for (rows, steps, chosen), numbers in zip(cases, found, strict=True):
        wanted = recompute(at_levels(count_patterns(rows), steps), chosen)
        assert (numbers["union"], numbers["average"]) == (wanted.union, wanted.average)
        assert numbers["unionOpen"] == wanted.open
        assert numbers["unionInterval"] == pytest.approx(wanted.union_ci95, abs=1e-12)
        assert numbers["averageInterval"] == pytest.approx(wanted.average_ci95, abs=1e-12)


def test_percent_is_rounded_as_python_does(script):
    values = [k / n for n in (1, 3, 7, 16, 97, 200, 400, 800, 1000, 8000, 10_000) for k in range(n + 1)]
    assert script.evaluate("(values) => values.map(percent)", values) == [f"{100 * value:.1f}" for value in values]


def test_the_p_value_is_that_of_the_exact_mcnemar_test(script):
    random = np.random.default_rng(0)
    cases = [(0, 0), (1, 0), (0, 1), (5, 5), (0, 10_000), (5000, 4600)]
    cases += [tuple(map(int, random.integers(0, 10 ** random.integers(1, 5), size=2))) for _ in range(300)]
    found = script.evaluate("(cases) => cases.map(([gained, lost]) => mcnemar(gained, lost))", cases)
    for case, p in zip(cases, found, strict=True):
        assert math.isclose(p, mcnemar(*case), rel_tol=1e-8, abs_tol=1e-300), case


def test_pairs_of_two_models_are_counted_as_in_python(script):
    cases, wanted = [], []
    for seed in range(SEEDS):
        one, random = random_rows(seed), np.random.default_rng(seed + 1000)
        other = ["".join(random.permutation(list(row))) for row in one]
        for chosen in subsets(len(one)):
            a, b = (union(*(rows[place] for place in chosen)) for rows in (one, other))
            decided = [(x == "S", y == "S") for x, y in zip(a, b, strict=True) if "O" not in (x, y)]
            cases.append((one, other, chosen))
            numbers = [decided.count(pair) for pair in ((True, False), (False, True), (True, True), (False, False))]
            wanted.append([*numbers, len(a) - len(decided)])
    found = script.evaluate(
        "(cases) => cases.map(([a, b, c]) => { const n = pairs(under(a, c), under(b, c));"
        " return [n.first, n.second, n.both, n.neither, n.open]; })",
        cases,
    )
    assert found == wanted
