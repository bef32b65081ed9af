import msgspec
import pytest
from hypothesis import given, settings

from robench.errors import UserError
from robench.evidence.records import Clean, Effort, Evidence, Failure, PlannedAttack, PlannedThreat
from robench.results.merging import (
    consolidated,
    date_of,
    joint_plan,
    joint_precisions,
    merge,
    precisions,
    searched_in,
    with_precision,
)
from robench.results.outcomes import outcomes

from .made import (
    ANSWERS,
    ANY_PLAN,
    EVIDENCE,
    PLAN,
    accepted,
    claim,
    clean,
    evidences,
    exhausted,
    laid_end_to_end,
    outside,
    plan,
)


def both(evidence):
    return [outcomes(ANY_PLAN, evidence, threat) for threat in ("linf:0.3", "l2:2")]


@given(evidences(), evidences())
def test_merging_has_the_outcomes_of_all_records_together(one, other):
    assert both(merge([one, other]).evidence) == both(laid_end_to_end(one, other))


@given(evidences(), evidences())
@settings(max_examples=50)
def test_merging_is_commutative_and_idempotent_on_outcomes(one, other):
    merged = merge([one, other]).evidence
    assert both(merged) == both(merge([other, one]).evidence)
    assert both(merged) == both(merge([merged, one]).evidence) == both(merge([merged, merged]).evidence)
    assert both(merge([one]).evidence) == both(merge([one, one]).evidence) == both(one)


@given(evidences(), evidences(), evidences())
@settings(max_examples=50)
def test_merging_is_associative_on_outcomes(a, b, c):
    left = merge([merge([a, b]).evidence, c]).evidence
    right = merge([a, merge([b, c]).evidence]).evidence
    assert both(left) == both(right) == both(merge([a, b, c]).evidence)


@given(evidences(), evidences())
def test_every_merged_claim_can_be_traced_to_its_image(one, other):
    merged, parts = merge([one, other]), (one, other)
    assert [c.id for c in merged.evidence.claims] == list(range(1, len(merged.evidence.claims) + 1))
    for c in merged.evidence.claims:
        which, old = merged.sources[c.id]
        source = next(o for o in parts[which].claims if o.id == old)
        assert (source.example, source.threat, source.attack) == (c.example, c.threat, c.attack)


@given(evidences())
def test_a_copy_of_a_run_adds_no_claim(evidence):
    def reported(e):
        return [(repr(c), repr(v)) for c, v in e.judged()]

    assert reported(merge([evidence, evidence]).evidence) == reported(merge([evidence]).evidence)


def test_merging_a_run_with_itself_changes_nothing():
    merged = merge([EVIDENCE, EVIDENCE]).evidence
    assert {t: outcomes(PLAN, merged, t) for t in ANSWERS} == ANSWERS
    assert set(merged.exhausted) == set(EVIDENCE.exhausted)
    assert (merged.claims, merged.verdicts, merged.clean) == (EVIDENCE.claims, EVIDENCE.verdicts, EVIDENCE.clean)
    assert set(merged.efforts) == set(EVIDENCE.efforts)


def test_the_smallest_accepted_image_of_an_attack_is_kept_and_every_rejection():
    one = Evidence(claims=(claim(1, 5), claim(2, 5)), verdicts=(accepted(1, 0.29), outside(2)))
    other = Evidence(claims=(claim(1, 5), claim(2, 5, attack="b")), verdicts=(accepted(1, 0.2), accepted(2, 0.25)))
    merged = merge([one, other])
    found = [(c.attack, v.size, merged.sources[c.id]) for c, v in merged.evidence.judged() if v.accepted]
    assert found == [("pgd(steps=40)", 0.2, (1, 1)), ("b", 0.25, (1, 2))]
    assert [v.size for v in merged.evidence.verdicts if not v.accepted] == [0.31]


def test_an_unjudged_claim_is_retained_unless_another_run_judged_it():
    waiting, judged = Evidence(claims=(claim(1, 5),)), Evidence(claims=(claim(7, 5),), verdicts=(outside(7),))
    assert [c.example for c in merge([waiting]).evidence.claims] == [5]
    assert len(merge([waiting, judged]).evidence.claims) == 1
    assert len(merge([waiting, judged]).evidence.verdicts) == 1


def test_different_items_add_up_and_the_same_item_is_counted_once():
    first, second = exhausted(5, 0b01, forwards=10, backwards=9), exhausted(5, 0b10, forwards=20, backwards=19)
    dearer = exhausted(5, 0b01, forwards=15, backwards=3)
    assert consolidated([first, second]) == (exhausted(5, 0b11, forwards=30, backwards=28),)
    assert consolidated([first, dearer]) == (exhausted(5, 0b01, forwards=15, backwards=9),)
    assert consolidated([first, first]) == (first,)


def test_seconds_of_different_runs_add_up_and_those_of_a_copy_do_not():
    one, other = Evidence(efforts=(Effort("l2:2", "a", 1.5),)), Evidence(efforts=(Effort("l2:2", "a", 2.0),))
    assert merge([one, other, one]).evidence.efforts == (Effort("l2:2", "a", 3.5),)


def test_failures_and_environments_are_united():
    failure = Failure(5, "l2:2", "a", "boom")
    one = Evidence(failures=(failure,), environment={"torch": "2.6", "host": "x"})
    other = Evidence(failures=(failure,), environment={"torch": "2.7"})
    merged = merge([one, merge([other, one]).evidence]).evidence
    assert merged.failures == (failure,)
    assert merged.environment == {"torch": "2.6 | 2.7", "host": "x"}


def test_where_two_clean_passes_differ_the_worse_is_kept():
    near, nan = Clean(5, "d", True, -0.1, tied=True), Clean(5, "d", False, float("nan"))
    for order in ([near, nan], [nan, near]):
        (kept,) = merge([Evidence(clean=(c,)) for c in order]).evidence.clean
        assert (kept.correct, kept.tied, str(kept.margin)) == (False, True, "nan")


def test_runs_on_different_images_are_not_merged():
    with pytest.raises(UserError, match="example 5 is not the same image"):
        merge([Evidence(clean=(clean(5),)), Evidence(clean=(Clean(5, "another", True, -1.0),))])


def test_a_run_was_searched_in_the_recorded_precisions_or_else_in_that_of_its_plan():
    recorded = msgspec.structs.replace(EVIDENCE, environment={"precision": "bfloat16: why | float32: as named"})
    assert searched_in(PLAN, recorded.environment, any_search=True) == ("bfloat16", "float32")
    assert searched_in(PLAN, {}, any_search=True) == ("float32",), "as older versions left it"
    assert searched_in(PLAN, recorded.environment, any_search=False) == (), "nothing was searched yet"
    assert searched_in(plan(precision="auto"), {}, any_search=True) == ()


def test_precisions_that_only_a_plan_knows_join_the_record():
    record = joint_precisions({"precision": "bfloat16: why"}, [("bfloat16",), (), ("float32",)])
    assert record == "bfloat16: why | float32: as its plan says"
    assert precisions({"precision": record}) == ("bfloat16", "float32")


def test_a_reason_cannot_break_the_record():
    record = with_precision({}, "float32", "it raises x | y")
    assert (record, precisions({"precision": record})) == ("float32: it raises x, y", ("float32",))
    assert with_precision({"precision": record}, "float32", "it raises x, y") == record


def test_attacks_of_a_joint_plan_have_distinct_labels():
    """`pgd-2` may be what one plan calls an attack, and what a second `pgd` would be called."""
    named = [("pgd", "pgd(steps=1)"), ("pgd-2", "pgd(steps=2)")], [("pgd", "pgd(steps=3)")], [("pgd", "pgd(steps=4)")]
    plans = [
        plan(threats=(PlannedThreat("linf:0.3", tuple(PlannedAttack(label, spec, 1) for label, spec in attacks)),))
        for attacks in named
    ]
    (threat,) = joint_plan(plans, Evidence()).threats
    assert [a.label for a in threat.attacks] == ["pgd", "pgd-2", "pgd-3", "pgd-4"]


@pytest.mark.parametrize("curves", [(True, True), (True, False), (False, True)])
def test_a_joint_plan_has_a_curve_only_if_all_of_them_have(curves):
    """Else some searches ended at their first find, and the accuracy at smaller radii would be too high."""
    assert joint_plan([plan(curve=curve) for curve in curves], Evidence()).curve is all(curves)


@pytest.mark.parametrize(
    ("text", "latest"),
    [
        ("", ""),
        ("2026-11-26T06:10:00Z", "2026-11-26T06:10:00Z"),
        ("2026-11-26T06:10:00Z | 2027-01-02T00:00:00Z | 2026-12-31T23:59:59Z", "2027-01-02T00:00:00Z"),
        ("2026-02-30T00:00:00Z", ""),
        ("9 | 2026-11-26 | 2026-11-26T06:10:00+00:00 | 2026-1-2T03:04:05Z", ""),
        (" 2026-11-26T06:10:00Z | <b>", ""),
        ("zzzz | 2026-11-26T06:10:00Z", "2026-11-26T06:10:00Z"),
    ],
)
def test_the_date_of_an_environment_is_its_latest_valid_one(text, latest):
    assert date_of({"date": text}) == latest


def test_a_merged_run_has_the_latest_date():
    dates = ("2026-11-26T06:10:00Z", "2026-11-25T06:10:00Z", "tomorrow")
    parts = [Evidence(environment={"date": text}) for text in dates]
    assert merge(parts).evidence.environment["date"] == merge(parts[::-1]).evidence.environment["date"] == dates[0]
    assert "date" not in merge([Evidence(environment={"robench": "1"})]).evidence.environment
