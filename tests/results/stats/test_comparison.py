from itertools import product
from math import comb

import numpy as np
import pytest

from robench.results.stats.comparison import Scores, difference, mcnemar, permutation, ranks


def by_hand(differences):
    """All assignments of signs, one by one."""
    flips = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(lean >= abs(sum(differences)) for lean in flips) / len(flips)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 3), (1, 6), (0, 5), (9, 2)])
def test_mcnemar_is_the_two_tails_of_a_fair_coin(gained, lost):
    n, most = gained + lost, max(gained, lost)
    tail = sum(comb(n, k) for k in range(most, n + 1)) / 2**n
    assert mcnemar(gained, lost) == pytest.approx(min(1.0, 2 * tail))


@pytest.mark.parametrize("seed", range(12))
def test_the_permutation_test_counts_every_assignment_of_signs(seed):
    random = np.random.default_rng(seed)
    differences = random.integers(-4, 5, size=int(random.integers(1, 12)))
    assert permutation(differences) == pytest.approx(by_hand(differences.tolist()), abs=1e-12)


def test_examples_on_which_two_models_agree_change_nothing():
    differences = np.array([3, -1, 2, 2, 0, 0, -1])
    assert permutation(differences) == permutation(np.append(differences, [0] * 50))


def test_scores_of_different_scale_are_compared_as_shares():
    halves, thirds = Scores(np.array([2, 1, 0, 2]), 2), Scores(np.array([3, 0, 0, 0]), 3)
    # 0, 1/2, 0, 1: of the four ways to sign them, two lean as far.
    assert difference(halves, thirds) == pytest.approx(0.5)
    assert difference(halves, Scores(np.array([4, 2, 0, 4]), 4)) == 1.0


def simulated(pairs, n, threats, shift, seed=0):
    """The share of pairs of models called different. Each example is easy or hard for both; `shift` helps one."""
    random = np.random.default_rng(seed)
    called = 0
    for _ in range(pairs):
        ease = random.beta(0.7, 0.7, size=(1, n))
        one = (random.random((threats, n)) < ease).sum(axis=0)
        other = (random.random((threats, n)) < np.clip(ease + shift, 0, 1)).sum(axis=0)
        called += difference(Scores(one, threats), Scores(other, threats)) <= 0.05
    return called / pairs


@pytest.mark.parametrize("threats", [1, 3])
def test_equal_models_are_called_different_in_at_most_five_of_a_hundred_tables(threats):
    # 1500 pairs: 5 % comes out below 6.8 % all but once in a thousand times.
    share = simulated(1500, 100, threats, shift=0.0)
    assert 0.02 < share < 0.068


@pytest.mark.parametrize("threats", [1, 3])
def test_a_real_difference_is_detected(threats):
    assert simulated(200, 400, threats, shift=0.15) > 0.9


def scores(standing, n=100):
    """Stands on the first so many: two such models never disagree the other way."""
    return Scores((np.arange(n) < standing).astype(int))


def test_best_is_the_highest_with_all_that_are_not_significantly_worse_and_second_the_best_of_the_rest():
    # Against 50, five examples lost and none won is p = 1/16, six is 1/32.
    assert ranks([scores(44), scores(50), scores(45), scores(30)]) == ["second", "best", "best", ""]
    assert ranks([scores(44), scores(44), scores(60), scores(3)]) == ["second", "second", "best", ""]


def test_rows_that_cannot_be_ranked_are_skipped():
    assert ranks([None, scores(50), scores(10)]) == ["", "best", "second"]
    assert ranks([None, scores(50)]) == ["", ""]
    assert ranks([]) == []


def test_a_column_in_which_all_are_equal_has_no_best():
    assert ranks([scores(0), scores(0)]) == ["", ""]


def test_an_accuracy_of_0_is_not_second_best():
    assert ranks([scores(0), scores(40), scores(0)]) == ["", "best", ""]


def test_two_on_top_are_both_best_though_they_differ_on_every_example():
    low = Scores(np.tile([0, 1], 50))
    high = Scores(np.tile([1, 0], 50))
    assert ranks([low, high, scores(10)]) == ["best", "best", "second"]


def test_each_of_eight_equally_good_models_misses_the_bold_in_about_nine_of_a_hundred_columns():
    # As docs/reference/reports.md says. 300 columns of 8: within 6 to 12 % all but never.
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(300):
        ease = random.beta(0.7, 0.7, size=200)
        missed += sum(r != "best" for r in ranks([Scores((random.random(200) < ease).astype(int)) for _ in range(8)]))
    assert 0.06 < missed / (300 * 8) < 0.12
