import pytest

from robench.results.summarising import summarise
from robench.results.tables.contingency import OPEN, WRONG, contingency, contingency_frame, patterns

from ..made import ANSWERS, EVIDENCE, PLAN, plan
from .test_tables import finished, models


def test_the_counts_by_hand():
    # WBBSOSOO under linf:0.3, WSBBSSSO under l2:2: example by example.
    assert ANSWERS == {"linf:0.3": "WBBSOSOO", "l2:2": "WSBBSSSO"}
    counts = patterns(summarise(PLAN, EVIDENCE, ""))
    assert counts == {(WRONG,): 1, ("l2:2",): 1, (): 1, ("linf:0.3",): 1, (OPEN,): 3, ("linf:0.3", "l2:2"): 1}


def test_every_combination_of_threats_is_a_row_and_columns_add_up_to_all_examples():
    table = contingency([summarise(PLAN, EVIDENCE, ""), summarise(plan(name="other"), EVIDENCE, "")])
    assert list(table.frame["robust to"]) == ["all", "linf:0.3", "l2:2", "none", WRONG, OPEN]
    assert table.frame.iloc[:, 1].astype(int).sum() == 8


def test_the_share_robust_to_all_or_none_is_compared_with_independent_threats():
    # 100 examples: 40 stand under both, 20 under linf alone, 10 under l2 alone, 30 under none.
    summary = models({"net": ("S" * 60 + "B" * 40, "S" * 40 + "B" * 20 + "S" * 10 + "B" * 30)})[0]
    (_, sentence) = contingency([summary]).footer
    expected = 0.6 * 0.5 + 0.4 * 0.5
    assert sentence == (
        "70.0 % of 100 decided examples are robust to all threats or to none; were threats independent,"
        f" {100 * expected:.1f} % would be."
    )


def test_one_threat_has_no_combinations():
    table = contingency([finished()])
    assert table.frame.empty
    assert table.footer == ("Outcomes are set against each other from two threats on.",)


def test_the_numeric_table_has_a_row_for_each_combination_that_occurs():
    frame = contingency_frame(summarise(PLAN, EVIDENCE, ""))
    assert dict(zip(frame["robust to"], frame["examples"], strict=True)) == {
        "all": 1,
        "linf:0.3": 1,
        "l2:2": 1,
        "none": 1,
        WRONG: 1,
        OPEN: 3,
    }


@pytest.mark.parametrize("kinds", [5, 6])
def test_of_many_threats_only_combinations_that_occur_are_listed(kinds):
    letters = tuple("SB" if i == 0 else "BB" for i in range(kinds))
    table = contingency(models({"net": letters}))
    assert list(table.frame["robust to"]) == ["t0:1", "none"]
