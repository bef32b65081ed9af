"""The estimate of what another round breaks is not below the truth, on average and at its upper end."""

import numpy as np
import pytest

from robench.results.stats.another_round import another_round


@pytest.mark.parametrize("chances", [(0.02,) * 40, (0.0,) * 36 + (0.4,) * 4, (0.001, 0.01, 0.1, 0.3) * 10])
def test_it_is_on_average_no_less_than_what_the_next_round_breaks(chances):
    """Where examples differ, those that withstood one round are the harder ones: then the estimate is above it."""
    p, rng = np.array(chances), np.random.default_rng(0)
    first = rng.random((20_000, len(p))) < p
    estimates = [another_round(len(p), int(broken)) for broken in first.sum(axis=1)]
    expected = np.array([e.broken for e in estimates])
    next_round = ((1 - first) * p).sum(axis=1)  # the expected number, given what is left
    assert expected.mean() >= next_round.mean() - 3 * expected.std() / 20_000**0.5
    assert np.mean([e.ci95[1] >= n for e, n in zip(estimates, next_round, strict=True)]) >= 0.95


def test_a_round_that_broke_nothing_still_leaves_doubt():
    none = another_round(20, 0)
    assert (none.standing, none.broken, none.ci95[0]) == (20, 0, 0)
    assert none.ci95[1] == pytest.approx(20 * (1 - 0.025 ** (1 / 20)))


def test_nothing_is_expected_of_a_round_that_left_nothing_or_searched_nothing():
    assert another_round(5, 5).ci95 == (0, 0)
    assert (another_round(0, 0).broken, another_round(0, 0).standing) == (0, 0)
