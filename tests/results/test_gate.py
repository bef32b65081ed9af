"""The gate: exact, and careful with what is open."""

import itertools
import random
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import xlogy
from scipy.stats import binomtest, multinomial

from robench.errors import UserError
from robench.results.gate import (
    LEVEL,
    Counts,
    GateVerdict,
    Pairs,
    judge,
    lower_end,
    more_examples,
    p_value,
    paired,
    read_allowances,
    same_function,
)
from robench.results.summary import ModelEntry

ONE = Fraction(1, 100)


def pairs(name="union", *, held=0, lost=0, gained=0, fallen=0, unknown=0):
    """So many examples of each kind; those unknown held before and are open now."""
    before = "S" * (held + lost) + "B" * (gained + fallen) + "S" * unknown
    now = "S" * held + "B" * lost + "S" * gained + "B" * fallen + "O" * unknown
    return Pairs(name, before, now)


def every_count(n):
    return [Counts(n, lost, gained) for lost in range(n + 1) for gained in range(n - lost + 1)]


def chances(counts, drop, rate):
    """The probability of each, where examples are gained at a rate and the population drops so far."""
    rates = [rate + drop, rate, 1 - 2 * rate - drop]
    return multinomial.pmf([(c.lost, c.gained, c.n - c.lost - c.gained) for c in counts], counts[0].n, rates)


@pytest.mark.parametrize("drop", [0.0, 0.05])
def test_the_test_errs_no_more_often_than_its_level_whatever_the_rates_by_adding_up_all_outcomes(drop):
    counts = every_count(18)
    p = np.array([p_value(c, drop) for c in counts])
    for level in (0.01, 0.05):
        for rate in np.linspace(0, (1 - drop) / 2, 60):
            assert chances(counts, drop, rate)[p <= level].sum() <= level + 1e-9


def test_false_alarms_stay_rare_if_the_population_has_dropped_by_less_than_allowed():
    counts = every_count(14)
    p = np.array([p_value(c, 0.1) for c in counts])
    for drop, rate in itertools.product((-0.3, -0.05, 0.0, 0.08), (0.3, 0.31, 0.34)):
        assert chances(counts, drop, rate)[p <= 0.05].sum() <= 0.05


def test_the_lower_end_covers_at_its_level_by_adding_up_all_outcomes():
    counts = every_count(10)
    ends = np.array([lower_end(c, 0.05, tolerance=1e-2) for c in counts])
    for drop, rate in itertools.product((-0.2, 0.0, 0.1, 0.3), (0.2, 0.25, 0.3)):
        assert chances(counts, drop, rate)[ends > drop].sum() <= 0.05


@pytest.mark.costly
def test_the_p_value_is_the_largest_tail_by_adding_up_all_outcomes():
    """The statistic written anew: McNemar's, for no allowance."""
    n, counts = 30, every_count(30)
    z = np.array([(c.lost - c.gained) / max(np.sqrt(c.lost + c.gained), 1e-9) for c in counts])
    for seen in (Counts(n, 7, 0), Counts(n, 9, 2), Counts(n, 12, 5)):
        beyond = z >= (seen.lost - seen.gained) / np.sqrt(seen.lost + seen.gained) - 1e-9
        largest = max(chances(counts, 0.0, rate)[beyond].sum() for rate in np.linspace(0.001, 0.5, 300))
        assert p_value(seen, 0.0) <= largest + 2e-5
        inside = max(chances(counts, 0.0, rate)[beyond].sum() for rate in np.linspace(0.01, 0.35, 300))
        assert p_value(seen, 0.0) == pytest.approx(inside, rel=0.02)


def test_with_an_allowance_too_the_likeliest_rates_found_by_trying_many():
    """Tango's statistic from its definition: the standard error at the rates of the largest likelihood."""
    n, drop, counts = 14, 0.2, every_count(14)
    rates = np.linspace(1e-6, (1 - drop) / 2 - 1e-6, 4001)
    z = []
    for c in counts:
        logs = xlogy(c.lost, rates + drop) + xlogy(c.gained, rates) + xlogy(n - c.lost - c.gained, 1 - 2 * rates - drop)
        rate = rates[logs.argmax()]
        z.append((c.lost - c.gained - n * drop) / np.sqrt(n * (2 * rate + drop - drop**2)))
    for seen in (Counts(n, 7, 1), Counts(n, 6, 0), Counts(n, 9, 2)):
        beyond = np.array(z) >= z[counts.index(seen)] - 1e-3
        largest = max(chances(counts, drop, rate)[beyond].sum() for rate in np.linspace(0, 0.4, 401))
        assert p_value(seen, drop) == pytest.approx(largest, rel=0.01)


def test_without_an_allowance_it_agrees_with_the_sign_test_up_to_its_conservatism():
    for lost, gained in ((20, 5), (40, 20), (12, 1)):
        conditional = binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue
        assert 0.3 * conditional < p_value(Counts(500, lost, gained), 0.0) < 1.3 * conditional + 1e-5


def test_more_losses_never_make_it_less_certain_and_more_gains_never_more():
    for lost, gained in itertools.product(range(0, 24, 3), range(0, 12, 2)):
        here = p_value(Counts(100, lost, gained), ONE)
        assert p_value(Counts(100, lost + 1, gained), ONE) <= here + 2e-5
        assert p_value(Counts(100, lost, gained + 1), ONE) >= here - 2e-5


def test_a_worse_model_is_detected_an_equal_one_passes_and_few_examples_decide_nothing():
    allowed = {"union": ONE}
    assert judge([pairs(held=500, lost=40, gained=5, fallen=455)], allowed).verdict is GateVerdict.REGRESSION
    assert judge([pairs(held=500, lost=12, gained=5, fallen=483)], allowed).verdict is GateVerdict.NONE
    (row,) = judge([pairs(held=14, lost=4, fallen=12)], allowed).rows
    assert row.verdict is GateVerdict.UNDECIDED
    assert row.lower_end < 0.01 < row.drop
    assert row.more > 10


def test_the_printed_interval_always_agrees_with_the_verdict():
    for lost in range(0, 40, 2):
        (row,) = judge([pairs(held=300, lost=lost, gained=4, fallen=200)], {"union": ONE}).rows
        assert (row.lower_end >= ONE) == (row.verdict is GateVerdict.REGRESSION), lost
        assert row.lower_end <= row.drop


def test_the_predicted_number_of_further_examples_decides():
    few = Counts(200, 7, 2)
    more = more_examples(few, ONE, LEVEL)
    times = (200 + 1.3 * more) / 200
    assert p_value(Counts(round(200 * times), round(7 * times), round(2 * times)), ONE) <= LEVEL
    times = (200 + 0.5 * more) / 200
    assert p_value(Counts(round(200 * times), round(7 * times), round(2 * times)), ONE) > LEVEL
    assert more_examples(Counts(200, 2, 2), ONE, LEVEL) is None


def test_several_rows_are_judged_by_holms_method():
    """Against the textbook: the j-th smallest of k p-values is turned down at level / (k - j + 1), until one is not."""
    noise = random.Random(0)
    seen = set()
    for _ in range(12):
        rows = [
            pairs(f"t{i}", held=150, lost=noise.randrange(1, 16), gained=noise.randrange(3), fallen=40)
            for i in range(4)
        ]
        p = {row.name: p_value(row.best_case(), ONE) for row in rows}
        wanted = set()
        for j, name in enumerate(sorted(p, key=p.__getitem__)):
            if p[name] > LEVEL / (4 - j):
                break
            wanted.add(name)
        judged = judge(rows, dict.fromkeys(p, ONE))
        assert {row.name for row in judged.rows if row.verdict is GateVerdict.REGRESSION} == wanted
        seen.add(len(wanted))
    assert len(seen) >= 3


def completions(row):
    """Everything that its open examples may come to."""
    places = [i for i, letter in enumerate(row.now) if letter == "O"]
    for letters in itertools.product("BS", repeat=len(places)):
        now = list(row.now)
        for place, letter in zip(places, letters, strict=True):
            now[place] = letter
        yield Pairs(row.name, row.before, "".join(now))


def test_open_examples_neither_hide_nor_create_a_regression():
    verdicts = set()
    for lost, gained in itertools.product(range(0, 16, 3), (0, 5)):
        row = pairs(held=30, lost=lost, gained=gained, fallen=20, unknown=3)
        said = judge([row], {"union": ONE}).verdict
        verdicts.add(said)
        comes_to = {judge([whole], {"union": ONE}).verdict for whole in completions(row)}
        if said is not GateVerdict.UNDECIDED:
            assert comes_to == {said}
    assert verdicts == set(GateVerdict)


def test_what_was_open_in_the_baseline_is_no_proof_of_a_drop():
    row = Pairs("union", "O" * 40, "B" * 40)
    assert judge([row], {"union": ONE}).verdict is GateVerdict.UNDECIDED
    assert judge([Pairs("union", "S" * 40, "B" * 40)], {"union": ONE}).verdict is GateVerdict.REGRESSION


def test_a_wrong_example_that_an_attack_had_broken_before_is_no_loss():
    assert Pairs("union", "BWSS", "WBWS").lost() == (2,)


def test_false_alarms_over_correlated_threats_are_as_rare_as_the_level():
    """20,000 pairs of models under three threats, each dropped by just what is allowed; most flips are shared."""
    noise = np.random.default_rng(0)
    n, alarms, trials = 200, 0, 20_000
    shared = noise.multinomial(n, [0.02, 0.01, 0.97], size=trials)
    own = noise.multinomial(n, [0.01, 0.01, 0.98], size=(3, trials))
    for both, each in zip(shared.tolist(), own.transpose(1, 0, 2).tolist(), strict=True):
        rows = [Counts(n, both[0] + one[0], both[1] + one[1]) for one in each]
        alarms += min(p_value(row, ONE) for row in rows) <= LEVEL / 3
    assert alarms / trials <= LEVEL
    assert alarms > 20, "or nothing would ever be found"


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([], {"clean": "1", "linf:0.3": "1", "union": "1"}),
        (["2pp"], {"clean": "2", "linf:0.3": "2", "union": "2"}),
        (["union=0.5pp"], {"union": "0.5"}),
        (["2pp", "clean=0pp"], {"clean": "0", "linf:0.3": "2", "union": "2"}),
        (["linf:0.3=1.25 pp"], {"linf:0.3": "1.25"}),
    ],
)
def test_allowances_are_read_exactly(texts, wanted):
    rows = ["clean", "linf:0.3", "union"]
    assert read_allowances(texts, rows) == {name: Fraction(points) / 100 for name, points in wanted.items()}


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("unoin=1pp", "did you mean union"),
        ("linf:0.4=1pp", "did you mean linf:0.3"),
        ("union=1", "like 1pp"),
        ("1e99999999pp", "like 1pp"),
        ("1_0pp", "like 1pp"),
        ("１pp", "like 1pp"),
        ("1%", "like 1pp"),
        ("union=nanpp", "like 1pp"),
        ("union=infpp", "like 1pp"),
        ("union=1/0pp", "like 1pp"),
        ("-1pp", "out of range"),
        ("union=100pp", "out of range"),
        ("", "like 1pp"),
    ],
)
def test_an_unreadable_allowance_is_refused(text, reported):
    with pytest.raises(UserError, match=reported):
        read_allowances([text], ["clean", "linf:0.3", "union"])


def model(**changes):
    fields = {"name": "a", "weights_sha256": "w", "architecture": "net", "normalisation": "none", "fingerprint": "1 -2"}
    return ModelEntry(**{**fields, **changes})


def test_the_same_function_is_recognised_by_everything_except_its_name():
    assert same_function(model(), model(name="b", fingerprint="1.001 -2"))
    for change in (
        {"weights_sha256": "v"},
        {"architecture": "other"},
        {"normalisation": "mnist"},
        {"fingerprint": "1 -1.9"},
        {"fingerprint": "1"},
    ):
        assert not same_function(model(), model(**change))
    assert not same_function(model(fingerprint=""), model(fingerprint="")), "an older file does not say"


def test_rows_are_paired_by_name():
    assert paired({"clean": "SW"}, {"clean": "SS"}) == (Pairs("clean", "SW", "SS"),)
    with pytest.raises(AssertionError, match="rows are compared with themselves"):
        paired({"clean": "S"}, {"union": "S"})
