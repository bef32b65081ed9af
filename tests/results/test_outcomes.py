import pytest
from hypothesis import given
from hypothesis import strategies as st

from robench.errors import UserError
from robench.evidence.nesting import NORMS
from robench.evidence.records import Evidence, PlannedThreat
from robench.problem.threats import BALLS
from robench.results.outcomes import before_attack, outcomes, union

from .made import (
    ANSWERS,
    ANY_PLAN,
    APGD,
    EVIDENCE,
    PGD,
    PLAN,
    UNION,
    accepted,
    claim,
    clean,
    evidences,
    exhausted,
    laid_end_to_end,
    outside,
    plan,
    stirred,
)

LETTERS = st.text("WBSO", min_size=4, max_size=4)


def of_one(threat="linf:0.3", attacks=(PGD,), **records):
    """The letter of one example under one threat."""
    asked = plan(examples=(5,), threats=(PlannedThreat(threat, attacks),))
    return outcomes(asked, Evidence(clean=(clean(5),), **records), threat)


@pytest.mark.parametrize("threat", ANSWERS)
def test_outcomes_worked_out_by_hand(threat):
    assert outcomes(PLAN, EVIDENCE, threat) == ANSWERS[threat]


def test_union_worked_out_by_hand():
    assert union(*ANSWERS.values()) == UNION
    assert union("WSSSBBOO", "WSBOOSOS") == "WSBOBBOO"


def test_letters_follow_the_order_of_the_plan():
    backwards = plan(examples=PLAN.examples[::-1])
    assert outcomes(backwards, EVIDENCE, "linf:0.3") == ANSWERS["linf:0.3"][::-1]


def test_an_example_stands_only_if_every_item_of_every_attack_is_exhausted():
    both = (PGD, APGD)
    pgd, apgd = (exhausted(5, 0b01), exhausted(5, 0b10)), exhausted(5, 1, attack=APGD.spec)
    assert of_one(attacks=both, exhausted=(*pgd, apgd)) == "S"
    assert of_one(attacks=both, exhausted=(pgd[0], apgd)) == "O"
    assert of_one(attacks=both, exhausted=pgd) == "O"
    assert of_one(attacks=both, exhausted=(exhausted(5, 0b11, threat="l2:2"), apgd)) == "O"


def test_a_threat_without_attacks_leaves_everything_open():
    assert of_one(attacks=()) == "O"
    assert before_attack(PLAN, EVIDENCE) == "WOOOOOOO"


def test_a_claim_counts_only_when_it_is_accepted():
    assert of_one(claims=(claim(1, 5),), verdicts=()) == "O"
    assert of_one(claims=(claim(1, 5),), verdicts=(outside(1),)) == "O"
    assert of_one(claims=(claim(1, 5),), verdicts=(accepted(1),)) == "B"
    assert of_one(claims=(claim(1, 6),), verdicts=(accepted(1),)) == "O"


def test_a_rejected_claim_stands_once_the_search_has_marked_its_item():
    assert of_one(claims=(claim(1, 5),), verdicts=(outside(1),), exhausted=(exhausted(5, 0b11),)) == "S"


def test_an_accepted_image_breaks_whichever_attack_found_it():
    assert (
        of_one(claims=(claim(1, 5, attack="other()"),), verdicts=(accepted(1),), exhausted=(exhausted(5, 0b11),)) == "B"
    )


@pytest.mark.parametrize(
    ("found_under", "size", "asked", "letter"),
    [
        ("linf:0.2", 0.2, "linf:0.3", "B"),  # a smaller ball of the same norm
        ("linf:8/255", 0.03, "linf:0.3", "B"),
        ("linf:0.30", 0.30000002, "linf:3/10", "B"),  # the same ball: the rounding was the referee's business
        ("linf:0.4", 0.25, "linf:0.3", "B"),  # a larger ball, but the image lies in ours
        ("linf:0.4", 0.35, "linf:0.3", "O"),
        ("linf:0.4", float("nan"), "linf:0.3", "O"),
        ("l2:0.2", 0.2, "linf:0.3", "O"),  # another norm
        ("rt:2px,10deg", 1.0, "rt:3px,30deg", "B"),  # both limits are smaller
        ("rt:3px,30deg", 0.2, "rt:3px,30deg", "B"),
        ("rt:3px,30deg", 0.2, "rt:2px,30deg", "O"),  # a share of its own limits, not of these
        ("rt:2px,40deg", 0.2, "rt:3px,30deg", "O"),
        ("rt:2px,10deg,pad4", 0.2, "rt:3px,30deg", "O"),  # on another canvas
        ("rt:2px,10deg,pad4", 0.2, "rt:2px,1e1deg,pad4", "B"),
        ("patch:4px", 1.0, "patch:5px", "B"),
        ("patch:5px", 0.2, "patch:4px", "O"),
        (f"patch:{'9' * 5000}px", 0.2, "patch:4px", "O"),  # a text in a file may be anything
        ("rt:1/0px,10deg", 0.2, "rt:3px,30deg", "O"),
        ("rt-l2:2px,10deg+l2:0.5", 0.2, "rt-l2:3px,30deg+l2:0.5", "B"),
        ("rt-l2:2px,10deg+l2:0.5", 0.2, "rt-l2:3px,30deg+l2:0.6", "O"),  # onto another ball: other images
        ("corruption:fog@3", 1.0, "corruption:all@1-5", "B"),
        ("corruption:fog@3", 1.0, "corruption:all@4", "O"),
        ("linf:1/0", 0.2, "linf:0.3", "O"),
    ],
)
def test_an_image_counts_for_every_ball_of_its_norm_that_it_lies_in(found_under, size, asked, letter):
    assert of_one(asked, claims=(claim(1, 5, found_under),), verdicts=(accepted(1, size),)) == letter


def test_an_answer_on_which_two_machines_disagree_is_wrong():
    asked = plan(examples=(5,))
    for records in ((clean(5), clean(5, False)), (clean(5, False), clean(5))):
        assert outcomes(asked, Evidence(clean=records), "linf:0.3") == "W"


def test_a_threat_outside_the_plan_is_named_with_its_neighbours():
    with pytest.raises(UserError, match=r"no planned threat is called 'linf:0\.2'; did you mean linf:0\.3"):
        outcomes(PLAN, EVIDENCE, "linf:0.2")


@given(evidences(), st.integers())
def test_outcomes_depend_on_neither_order_nor_repetition(evidence, seed):
    again = stirred(evidence, seed)
    for threat in ("linf:0.3", "l2:2"):
        assert outcomes(ANY_PLAN, again, threat) == outcomes(ANY_PLAN, evidence, threat)


@given(evidences(), evidences())
def test_more_evidence_never_raises_the_bound(some, more):
    for threat in ("linf:0.3", "l2:2"):
        before, after = outcomes(ANY_PLAN, some, threat), outcomes(ANY_PLAN, laid_end_to_end(some, more), threat)
        assert len(before) == len(after) == 4
        for old, new in zip(before, after, strict=True):
            assert new in {"O": "OSBW", "S": "SBW", "B": "BW", "W": "W"}[old]


@given(LETTERS, LETTERS, LETTERS)
def test_union_is_a_worst_case_in_any_grouping(a, b, c):
    assert union(a, b) == union(b, a)
    assert union(union(a, b), c) == union(a, union(b, c)) == union(a, b, c)
    assert union(a, a) == a == union(a)


def test_sizes_are_distances_under_the_lp_balls():
    assert set(NORMS) == set(BALLS)


@pytest.mark.parametrize("kind", ["elastic", "jpeg-l2"])
def test_a_find_of_a_larger_radius_counts_under_a_smaller_one_only_where_sizes_are_distances(kind):
    def letter(threat, found, size):
        given = claim(1, 5, threat=found)
        done = (exhausted(5, 0b11, threat=threat),)
        return of_one(threat, claims=(given,), verdicts=(accepted(1, size=size),), exhausted=done)

    assert letter("l2:1", "l2:2", 0.9) == "B"
    assert letter("l2:1", "l2:2", 1.1) == "S"
    assert letter(f"{kind}:1", f"{kind}:2", 0.9) == "S"  # 0.9 of the limit 2
    assert letter(f"{kind}:2", f"{kind}:1", 0.9) == "B"
