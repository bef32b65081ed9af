import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import binom

from robench.results.stats.intervals import average, clopper_pearson, wilson

GRID = np.linspace(0.005, 0.995, 199)


def coverage(interval, n):
    """The chance that the interval holds p, for each p on the grid, summed over all results: no simulation."""
    ends = np.array([interval(k, n) for k in range(n + 1)])
    holds = (ends[:, :1] <= GRID) & (ends[:, 1:] >= GRID)
    return (binom.pmf(np.arange(n + 1)[:, None], n, GRID) * holds).sum(axis=0)


@pytest.mark.parametrize("n", [1, 5, 20, 100, 1000])
def test_clopper_pearson_never_covers_less_than_its_level(n):
    assert coverage(clopper_pearson, n).min() >= 0.95


@pytest.mark.parametrize("n", [5, 20, 100, 1000])
def test_wilson_covers_at_its_level_on_average(n):
    assert 0.94 <= coverage(wilson, n).mean() <= 0.97


def test_clopper_pearson_is_the_published_one():
    # The example of R's binom.test: 682 of 925 of Mendel's peas.
    assert clopper_pearson(682, 925) == pytest.approx((0.7076683, 0.7654066), abs=1e-7)
    assert clopper_pearson(0, 10) == pytest.approx((0, 1 - 0.025 ** (1 / 10)))
    assert clopper_pearson(10, 10, level=0.9) == pytest.approx((0.05 ** (1 / 10), 1))


def test_wilson_ends_solve_the_score_equation():
    for k, n in [(1, 7), (911, 1000), (0, 10), (10, 10)]:
        for p in wilson(k, n):
            assert (k / n - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / n, abs=1e-7)


def test_no_examples_give_the_whole_interval():
    assert wilson(0, 0) == clopper_pearson(0, 0) == (0, 1)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_a_share_lies_strictly_inside_or_at_the_end_of_the_scale(interval, k, n, level):
    k = min(k, n)
    low, high = interval(k, n, level)
    assert 0 <= low < high <= 1
    assert low < k / n < high or (k == 0 and low == 0) or (k == n and high == 1)
    assert interval(n - k, n, level) == pytest.approx((1 - high, 1 - low))


TABLES = arrays.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 30)))


@given(TABLES)
@example(np.array([[False, True], [True, False]]))
def test_an_average_has_width_and_stays_within_the_wilson_ends(held):
    low, high = average(held)
    ends = np.array([wilson(int(row.sum()), row.size) for row in held]).mean(axis=0)
    assert 0 <= low < high <= 1
    assert ends[0] - 1e-12 <= low <= held.mean() <= high <= ends[1] + 1e-12


@given(TABLES)
def test_the_order_of_threats_and_examples_does_not_matter(held):
    assert average(held[::-1, ::-1]) == pytest.approx(average(held))


@given(TABLES, st.integers(1, 3))
def test_repeating_a_threat_does_not_change_the_interval(held, times):
    row = held[:1]
    assert average(np.repeat(row, times, axis=0)) == pytest.approx(wilson(int(row.sum()), row.size))


def test_the_average_of_two_threats_that_break_opposite_examples_is_almost_certain():
    one = np.arange(1000) % 2 == 0
    low, high = average(np.stack([one, ~one]))
    assert high - low < 1e-3


@pytest.mark.parametrize(
    ("shares", "shared"), [((0.9, 0.6, 0.3), 0.0), ((0.9, 0.6, 0.3), 1.0), ((0.98, 0.95, 0.9), 0.5)]
)
def test_the_interval_of_an_average_covers_close_to_its_level(shares, shared):
    random = np.random.default_rng(0)
    rounds, n = 400, 200
    ours, common = random.random((rounds, 3, n)), random.random((rounds, 1, n))
    # An example's luck is either its own under each threat or the same under all.
    luck = np.where(random.random((rounds, 1, n)) < shared, common, ours)
    held = luck < np.array(shares)[:, None]
    covered = [low <= np.mean(shares) <= high for low, high in map(average, held)]
    assert np.mean(covered) >= 0.92  # 0.95 less three standard errors of 400 rounds
