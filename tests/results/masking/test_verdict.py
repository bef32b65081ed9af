"""The verdict on masking, on records made by hand."""

import math

import msgspec
import pytest

from robench.errors import UserError
from robench.evidence.attack_key import AttackKey
from robench.evidence.records import (
    Evidence,
    Failure,
    MaskingDepth,
    MaskingState,
    PlannedAttack,
    PlannedThreat,
    Probe,
)
from robench.results.masking import comparison, indicators
from robench.results.masking.comparison import compare
from robench.results.masking.verdict import MaskingFinding, findings, holm, joint
from robench.results.summarising import summarise
from robench.results.summary import Summary
from robench.results.tables import render

from ..made import accepted, claim, clean, exhausted, plan

THREAT = "linf:0.3"
APGD, SQUARE = "apgd(loss='margin', steps=100, targets=0)", "square(p_init=0.8, steps=200, targets=0)"
SURROGATE = str(AttackKey("pgd(loss='margin', steps=40)", surrogate="repaired"))
PLAN = plan(examples=tuple(range(100)), threats=(PlannedThreat(THREAT, (PlannedAttack("apgd", APGD, 1),)),))
SOUND = {"zero": 0.0, "not finite": 0.0, "loss zero": 0.0, "leads": 1.0, "slope": 1.0, "agrees": 1.0, "same": 0.0,
         "blind": 0.0, "norm": 2.0}  # fmt: skip
WHOLE = {"no gradient": 0.0, "repeatable": 1.0, "alone": 0.0, "training layers": 0.0, "inner gradients": 0.0,
         "probabilities": 0.0, "one-hot": 0.0, "log-probabilities": 0.0, "spread": 3.0, "compiled": 0.0}  # fmt: skip


def evidence(left=60, broken=0, by=SQUARE, controlled=True, tried=True, probes=None, whole=None, threat=THREAT):
    """100 examples: `left` of them withstand APGD, and something else breaks the first `broken` of these."""
    finds = [(claim(i + 1, i, threat, by), accepted(i + 1)) for i in range(broken)]
    finds += [(claim(i + 1, i, threat, APGD), accepted(i + 1)) for i in range(left, 100)]
    unbroken = range(broken, left) if tried else ()
    searched = [exhausted(i, 1, threat, SQUARE, forwards=200, backwards=0) for i in unbroken]
    cost = comparison.CONTROL if controlled else comparison.CONTROL - 1
    withstood = [exhausted(i, 1, threat, APGD, forwards=cost, backwards=cost) for i in range(left)]
    measured = [Probe(threat, i, name, value) for i in range(40) for name, value in {**SOUND, **(probes or {})}.items()]
    measured += [Probe("", -1, name, value) for name, value in {**WHOLE, **(whole or {})}.items()]
    state = MaskingState(threat, MaskingDepth.ON, MaskingDepth.ON, sampled=tuple(range(left)))
    return Evidence(
        clean=tuple(clean(i) for i in range(100)),
        claims=tuple(c for c, _ in finds),
        verdicts=tuple(v for _, v in finds),
        exhausted=(*searched, *withstood),
        probes=tuple(measured),
        masking=(state,),
    )


def verdict(of, question=PLAN):
    return findings(question, of)[THREAT].verdict


def tail(hits, n, share):
    """P(X >= hits), term by term."""
    return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(hits, n + 1))


@pytest.mark.parametrize("by", [SQUARE, "pointwise(steps=40, wide=4)", SURROGATE])
def test_a_threat_is_masked_if_other_kinds_of_attack_break_many_images_that_first_order_attacks_leave(by):
    found = findings(PLAN, evidence(broken=8, by=by))[THREAT]
    assert found.verdict == "masked"
    assert "of 60 images sampled that first-order attacks leave, other evidence broke 8" in found.evidence[0]


@pytest.mark.parametrize("left", [2, 10, 60, 100])
def test_a_threat_is_masked_from_the_first_count_that_the_binomial_test_rejects(left):
    needed = next(k for k in range(1, left + 1) if tail(k, left, 0.01) <= 0.01)
    assert verdict(evidence(left, broken=needed)) == "masked"
    if needed > 1:
        assert verdict(evidence(left, broken=needed - 1)) == "none-found"
    assert compare(PLAN, evidence(left, broken=needed), THREAT).p == pytest.approx(tail(needed, left, 0.01))


def test_one_image_is_not_enough_for_the_verdict_masked():
    found = findings(PLAN, evidence(left=1, broken=1))[THREAT]
    assert found.verdict == "none-found"
    assert found.evidence[0].endswith("other evidence broke 1 (square 1); too few for a conclusion")


def test_the_lower_bound_is_never_below_the_share_that_the_test_rejects():
    reported = findings(PLAN, evidence(left=15, broken=2))[THREAT].evidence[0]
    assert reported.endswith("p = 0.01 for a share of at most 1 %; at least 1 % break (99 %)")


def test_an_image_counts_as_searched_after_every_assigned_attack_has_searched_it():
    one = evidence()
    pointwise = "pointwise(steps=40, wide=4)"
    named = tuple((spec, MaskingDepth.ON) for spec in (SQUARE, pointwise))
    short = msgspec.structs.replace(one, masking=(*one.masking, MaskingState(THREAT, assigned=named)))
    found = findings(PLAN, short)[THREAT]
    assert found.verdict == "untested"
    assert (
        "60 images not yet searched by every attack of another kind: the same command continues the search"
        in found.evidence
    )
    rest = tuple(exhausted(i, 1, THREAT, pointwise) for i in range(59))
    failed = (Failure(59, THREAT, pointwise, "RuntimeError: no"),)
    assert verdict(msgspec.structs.replace(short, exhausted=(*short.exhausted, *rest), failures=failed)) == "none-found"
    deeper = MaskingState(THREAT, assigned=(named[1], (SQUARE, MaskingDepth.DEEP)))  # those of the first check are left
    assert verdict(msgspec.structs.replace(short, masking=(*one.masking, deeper))) == "none-found"


def test_images_that_first_order_attacks_also_break_do_not_count():
    both = evidence(broken=8)
    again = [(claim(200 + i, i, THREAT, f"{APGD} under l2:9"), accepted(200 + i)) for i in range(8)]
    both = msgspec.structs.replace(
        both,
        claims=(*both.claims, *(c for c, _ in again)),
        verdicts=(*both.verdicts, *(v for _, v in again)),
    )
    assert compare(PLAN, both, THREAT).left == 52
    assert compare(PLAN, both, THREAT).broken.total() == 0
    assert verdict(both) == "suspect"  # the planned attacks did not break them


def test_too_few_first_order_gradients_make_a_threat_suspect_and_never_masked():
    assert findings(PLAN, evidence(broken=2, controlled=False))[THREAT].verdict == "untested"
    found = findings(PLAN, evidence(broken=8, controlled=False))[THREAT]
    assert found.verdict == "suspect"
    assert "the planned attacks left 60 images unbroken, and others broke 8 of them later" in found.evidence
    assert any("8 more images broken, with too few" in sentence for sentence in found.evidence)


def test_gradients_of_the_cross_entropy_are_no_control():
    weak = evidence(broken=8)
    spec = APGD.replace("margin", "cross-entropy")
    swapped = tuple(msgspec.structs.replace(s, attack=spec) if s.attack == APGD else s for s in weak.exhausted)
    assert verdict(msgspec.structs.replace(weak, exhausted=swapped)) == "suspect"
    assert verdict(weak) == "masked"


def test_no_control_is_needed_if_no_first_order_attack_can_run():
    without = evidence(broken=8, controlled=False)
    raised = tuple(Failure(i, THREAT, APGD, "RuntimeError: no grad") for i in range(8))
    square = tuple(s for s in without.exhausted if s.attack == SQUARE)
    assert verdict(msgspec.structs.replace(without, exhausted=square, failures=raised)) == "masked"


def test_a_failed_attack_does_not_replace_the_control_of_one_that_ran_too_short():
    short = evidence(broken=8, controlled=False)
    failed = tuple(Failure(i, THREAT, "apgd(loss='cross-entropy')", "out of memory") for i in range(8))
    assert verdict(evidence(broken=8)) == "masked"
    assert verdict(msgspec.structs.replace(short, failures=failed)) == "suspect"


def test_only_sampled_examples_are_counted():
    few = evidence(broken=8)
    (state,) = few.masking
    rest = msgspec.structs.replace(few, masking=(msgspec.structs.replace(state, sampled=tuple(range(8, 60))),))
    assert compare(PLAN, rest, THREAT).broken.total() == 0
    assert verdict(rest) == "none-found"


def test_images_that_a_planned_attack_of_another_kind_broke_do_not_count_as_survivors():
    planned = (PlannedAttack("apgd", APGD, 1), PlannedAttack("square", SQUARE, 1))
    question = plan(examples=tuple(range(100)), threats=(PlannedThreat(THREAT, planned),))
    found = compare(question, evidence(broken=8, controlled=False), THREAT)
    assert (found.survived, found.broken_later, found.too_weak) == (52, 0, False)
    found = compare(PLAN, evidence(broken=8, controlled=False), THREAT)
    assert (found.survived, found.broken_later, found.too_weak) == (60, 8, True)


def test_a_threat_is_untested_while_unsearched_images_remain_and_none_found_if_none_are_left():
    assert verdict(evidence(tried=False)) == "untested"
    found = findings(PLAN, evidence(left=0))[THREAT]
    assert found.verdict == "none-found"
    assert found.evidence == ("first-order attacks leave nothing that masking could hide",)
    assert found.next == ""


def test_a_run_without_a_check_is_untested_and_its_summary_has_no_indicators():
    plain = msgspec.structs.replace(evidence(broken=8), probes=(), masking=())
    assert findings(PLAN, plain)[THREAT] == MaskingFinding("untested")
    reported = msgspec.json.decode(summarise(PLAN, plain, "0").to_json())
    assert reported["threats"][0]["masking"] == {"verdict": "untested", "evidence": [], "next": ""}
    assert reported["masking"] == {"verdict": "untested", "evidence": []}


def test_several_threats_share_the_level_by_holms_method():
    threats = tuple(PlannedThreat(f"linf:0.{i}", (PlannedAttack("apgd", APGD, 1),)) for i in range(1, 6))
    question = plan(examples=tuple(range(100)), threats=threats)
    barely = next(k for k in range(1, 60) if tail(k, 60, 0.01) <= 0.01)
    assert tail(barely, 60, 0.01) > 0.01 / 5
    parts = [evidence(broken=barely if i == 1 else 0, threat=f"linf:0.{i}") for i in range(1, 6)]
    # Claims of one radius lie in the larger ones too: keep each threat's own by separate examples of its own plan.
    alone = findings(plan(examples=tuple(range(100)), threats=threats[:1]), parts[0])
    assert alone["linf:0.1"].verdict == "masked"
    values = {f"linf:0.{i}": compare(question, part, f"linf:0.{i}").p for i, part in enumerate(parts, start=1)}
    assert holm(values) == set()
    assert holm({"a": 0.0001, "b": 0.004, "c": 0.006, "d": 0.5}) == {"a"}
    assert holm({"a": 0.0001, "b": 0.003, "c": 0.006, "d": 0.5}) == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("slope", -1.0), ("slope", 30.0), ("same", 1.0), ("blind", 0.5), ("jump", 0.1)],
)
def test_one_odd_probe_on_all_examples_is_suspicious(name, value):
    found = findings(PLAN, evidence(probes={name: value}))[THREAT]
    assert found.verdict == "suspect"
    assert len([i for i in found.indicators if i.suspicious]) == 1
    assert len(found.evidence) == 2


ABSENT = [("zero", 0.5), ("not finite", 1.0), ("loss zero", 1.0), ("leads", 0.0), ("agrees", 0.1), ("jump", 0.9)]


@pytest.mark.parametrize(("name", "value"), ABSENT)
def test_a_gradient_or_scores_that_are_of_no_use_make_a_threat_masked(name, value):
    found = findings(PLAN, evidence(probes={name: value}))[THREAT]
    assert found.verdict == "masked"
    assert [i.conclusive for i in found.indicators if i.suspicious] == [True]


@pytest.mark.parametrize(("name", "value"), ABSENT)
def test_a_gradient_that_is_of_no_use_on_a_few_images_makes_no_threat_masked(name, value):
    few = 3 if name in ("zero", "not finite", "loss zero") else 20
    one = evidence(probes={name: value})
    sound = SOUND.get(name, 0.0)
    mixed = tuple(
        msgspec.structs.replace(p, value=sound) if p.name == name and p.example >= few else p for p in one.probes
    )
    assert verdict(msgspec.structs.replace(one, probes=mixed)) != "masked"


def test_a_gradient_that_differences_contradict_and_that_leads_on_few_images_makes_a_threat_masked():
    def found(leading):
        one = evidence(probes={"slope": -0.1})
        mixed = (
            msgspec.structs.replace(p, value=float(p.example < leading)) if p.name == "leads" else p for p in one.probes
        )
        return findings(PLAN, msgspec.structs.replace(one, probes=tuple(mixed)))[THREAT].verdict

    assert found(22) == "masked"
    assert found(38) == "suspect"  # as in straight-through layers


@pytest.mark.parametrize("name", ["no gradient", "one-hot"])
def test_a_model_without_a_gradient_or_without_scores_is_masked(name):
    assert verdict(evidence(whole={name: 1.0})) == "masked"


@pytest.mark.parametrize(("name", "value"), ABSENT)
def test_nothing_is_masked_where_the_planned_attacks_leave_no_image(name, value):
    found = findings(PLAN, evidence(left=0, probes={name: value}))[THREAT]
    assert found.verdict == "none-found"
    assert "explained: the planned attacks left no image that it could hide" in found.evidence[-1]
    assert not any(i.suspicious for i in found.indicators)


def test_a_model_that_gives_everything_the_same_logits_is_not_masked():
    found = findings(PLAN, evidence(probes={"zero": 1.0}, whole={"constant": 1.0}))[THREAT]
    assert found.verdict == "none-found"
    assert "explained: the model gives everything the same logits" in found.evidence[-1]


def further(one, **state):
    """The records of a search that went on over all that stands."""
    state = {"sampled": one.masking[0].sampled, "assigned": ((SQUARE, MaskingDepth.ON),), **state}
    return msgspec.structs.replace(one, masking=(*one.masking, MaskingState(THREAT, widened=MaskingDepth.ON, **state)))


def test_a_suspicious_diagnostic_is_explained_once_all_that_stands_has_been_searched_further():
    odd = {"probes": {"blind": 0.5}}
    assert verdict(evidence(**odd)) == "suspect"
    found = findings(PLAN, further(evidence(**odd)))[THREAT]
    assert found.verdict == "none-found"
    assert "explained: every further search of all 60 images that first-order attacks leave" in found.evidence[-1]
    assert verdict(further(evidence(tried=False, **odd))) == "suspect"  # it has not ended


def test_a_further_search_does_not_explain_a_gradient_that_is_absent():
    assert verdict(further(evidence(probes={"zero": 1.0}))) == "masked"


@pytest.mark.parametrize(
    ("by", "tried", "end"), [(SQUARE, True, "settled"), (SQUARE, False, "still falling"),
                             ("hop-skip-jump(steps=10)", True, "still falling")])  # fmt: skip
def test_a_number_that_was_attacked_down_says_whether_it_has_settled(by, tried, end):
    found = findings(PLAN, further(evidence(broken=8, by=by, tried=tried)))[THREAT]
    assert found.verdict == "masked"
    assert f"attacked down: 60.0 → 52.0, {end}" in found.evidence
    assert not any("attacked down" in sentence for sentence in findings(PLAN, evidence())[THREAT].evidence)


@pytest.mark.parametrize(("tried", "end"), [(True, "without a further search of what stands"),
                                            (False, "not yet searched further")])  # fmt: skip
def test_a_number_that_a_sample_alone_brought_down_is_not_called_falling(tried, end):
    found = findings(PLAN, evidence(broken=1, tried=tried))[THREAT]
    assert f"attacked down: 60.0 → 59.0, {end}" in found.evidence
    assert found.verdict == ("none-found" if tried else "untested")


@pytest.mark.parametrize(("by", "tried"), [("hop-skip-jump(steps=10)", True), (SQUARE, False)])
def test_a_number_that_is_still_falling_is_marked_however_few_images_brought_it_down(by, tried):
    one = further(evidence(broken=1, by=by, tried=tried))
    found = findings(PLAN, one)[THREAT]
    assert "attacked down: 60.0 → 59.0, still falling" in found.evidence
    assert found.verdict == "suspect"
    assert "59.0†" in render([summarise(PLAN, one, "1")])


def test_what_planned_attacks_find_under_another_planned_threat_is_not_put_down_to_the_check():
    question = msgspec.structs.replace(
        PLAN, threats=(*PLAN.threats, PlannedThreat("l2:9", (PlannedAttack("apgd", APGD, 1),)))
    )
    one = evidence()
    across = [(claim(200 + i, i, THREAT, f"{APGD} under l2:9"), accepted(200 + i)) for i in range(5)]
    both = msgspec.structs.replace(
        one, claims=(*one.claims, *(c for c, _ in across)), verdicts=(*one.verdicts, *(v for _, v in across))
    )
    assert compare(question, both, THREAT).left_by_plan == compare(question, both, THREAT).standing == 0.55
    assert not any("attacked down" in sentence for sentence in findings(question, both)[THREAT].evidence)
    assert "attacked down: 60.0 → 55.0" in " ".join(findings(PLAN, both)[THREAT].evidence)  # there l2:9 is not planned


@pytest.mark.parametrize("by", [SQUARE, "hop-skip-jump(steps=10)"])
def test_a_number_that_first_order_attacks_brought_down_too_is_suspect_while_it_is_still_falling(by):
    one = further(evidence(left=20, broken=1, by=by))
    again = [(claim(200 + i, i, THREAT, f"{APGD} under l2:9"), accepted(200 + i)) for i in range(2, 6)]
    found = msgspec.structs.replace(
        one, claims=(*one.claims, *(c for c, _ in again)), verdicts=(*one.verdicts, *(v for _, v in again))
    )
    assert compare(PLAN, found, THREAT).too_weak
    assert verdict(found) == ("suspect" if by.startswith("hop") else "none-found")


@pytest.mark.parametrize(("name", "value"), [("agrees", 0.1), ("leads", 0.0), ("jump", 0.9)])
def test_what_noise_does_to_a_gradient_is_explained_in_a_model_that_answers_at_random(name, value):
    question = msgspec.structs.replace(PLAN, passes=100, eot=20)
    found = findings(question, evidence(probes={name: value}))[THREAT]
    assert found.verdict == "none-found"
    assert "explained: attacks average over 20 passes" in found.evidence[-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("repeatable", 0.0), ("alone", 0.5), ("training layers", 1.0), ("spread", 1e4)],
        *[("inner gradients", 3.0), ("probabilities", 1.0), ("spread", 1e-9)],
    ],
)
def test_one_odd_property_of_the_model_is_suspicious(name, value):
    assert verdict(evidence(whole={name: value})) == "suspect"


@pytest.mark.parametrize(("name", "value"), [("log-probabilities", 1.0), ("compiled", 1.0), ("spread", 40.0)])
def test_properties_that_honest_models_share_are_not_suspicious(name, value):
    assert verdict(evidence(whole={name: value})) == "none-found"


def test_the_share_of_pixels_is_not_called_small_if_no_pixel_has_a_gradient():
    (reported,) = (
        i
        for i in findings(PLAN, evidence(probes={"blind": 1.0}))[THREAT].indicators
        if i.name == indicators.DEAD_PIXELS.name
    )
    assert (reported.suspicious, reported.meaning) == (False, "nothing to compare with where no pixel has one")


def test_a_few_odd_examples_are_not_suspicious():
    some = evidence()
    odd = tuple(Probe(THREAT, i, "zero", 1.0) for i in range(3))
    kept = tuple(p for p in some.probes if not (p.name == "zero" and p.example in range(3)))
    assert verdict(msgspec.structs.replace(some, probes=(*kept, *odd))) == "none-found"


def test_the_joint_verdict_is_the_worst_of_all_threats():
    found = {name: MaskingFinding(name, (f"because {name}",)) for name in ("none-found", "untested", "suspect")}
    assert joint(found)[0] == "suspect"
    assert joint({**found, "x": MaskingFinding("masked")})[0] == "masked"
    assert joint({"a": MaskingFinding("none-found"), "b": MaskingFinding("untested")})[0] == "untested"
    assert joint({"a": MaskingFinding("none-found", ("why",))}) == ("none-found", ("a: why",))
    assert joint({}) == ("untested", ())


def test_the_order_and_repetition_of_records_changes_nothing():
    once = evidence(broken=8, probes={"zero": 1.0})
    fields = ("clean", "claims", "verdicts", "exhausted", "masking")
    twice = {name: tuple(reversed(getattr(once, name) * 2)) for name in fields}
    turned = Evidence(**twice, probes=once.probes[::-1])
    assert findings(PLAN, turned)[THREAT].verdict == findings(PLAN, once)[THREAT].verdict == "masked"
    assert compare(PLAN, turned, THREAT) == compare(PLAN, once, THREAT)


def test_tables_mark_masked_numbers_and_the_panel_gives_reasons_and_the_next_command():
    masked = evidence(broken=8, probes={"zero": 1.0})
    masked = msgspec.structs.replace(masked, environment={"checkpoint": "/somewhere/net.pt"})
    summary = summarise(PLAN, masked, "0")
    assert Summary.from_json(summary.to_json()) == summary
    reported = render([summary], masking=True)
    assert "52.0†" in reported
    assert "| linf:0.3 | gradient exactly 0 (!) " in reported.replace("   ", " ").replace("  ", " ")
    assert "Next, for linf:0.3: the same robench evaluate command with --masking deep" in reported
    assert "/somewhere" not in reported
    assert reported.count("spread of the logits") == 1
    for form in ("latex", "html", "json"):
        assert "gradient exactly 0" in render([summary], form, masking=True)
    assert "(!)" not in render([summarise(PLAN, evidence(), "0")], masking=True)


def test_the_panel_explains_suspect_and_untested_and_names_the_threats_of_its_advice():
    threats = tuple(PlannedThreat(f"linf:0.{i}", (PlannedAttack("apgd", APGD, 1),)) for i in (1, 2))
    question = plan(examples=tuple(range(100)), threats=threats)
    parts = [evidence(broken=8, controlled=False, threat="linf:0.1"), evidence(tried=False, threat="linf:0.2")]
    both = {name: getattr(parts[0], name) + getattr(parts[1], name) for name in ("exhausted", "probes", "masking")}
    together = msgspec.structs.replace(parts[0], **both)
    text = render([summarise(question, together, "0")], masking=True)
    assert "; the planned attacks left 60 images unbroken, and others broke 8 of them later; 8 more images " in text
    assert "images not yet searched by every attack of another kind: the same command continues the search." in text
    assert "Next, for linf:0.1, linf:0.2: the same robench evaluate command with --masking deep\n" in text


@pytest.mark.parametrize(("depth", "word"), [(MaskingDepth.ON, "on"), (MaskingDepth.DEEP, "deep")])
def test_a_check_that_was_cut_short_advises_to_continue_at_its_own_depth(depth, word):
    cut = evidence(tried=False)
    state = msgspec.structs.replace(cut.masking[0], reached=depth)
    found = findings(PLAN, msgspec.structs.replace(cut, masking=(state,)))
    assert found[THREAT].verdict == "untested"
    assert found[THREAT].next == f"the same robench evaluate command with --masking {word}, to go on"


@pytest.mark.parametrize(("depth", "word"), [(MaskingDepth.ON, "on"), (MaskingDepth.DEEP, "deep")])
def test_a_check_that_had_not_reached_a_threat_is_not_reported_as_never_requested(depth, word):
    stopped = msgspec.structs.replace(evidence(broken=8), probes=(), masking=(MaskingState(THREAT, started=depth),))
    found = findings(PLAN, stopped)[THREAT]
    assert found.verdict == "untested"
    assert found.next == f"the same robench evaluate command with --masking {word}, to go on"
    reported = render([summarise(PLAN, stopped, "0")], masking=True)
    assert f"{THREAT} untested: the run was stopped before this check started.\n" in reported
    assert "not checked" not in reported


@pytest.mark.parametrize("place", ["threats", "whole"])
def test_a_summary_with_an_unknown_verdict_is_refused(place):
    reported = msgspec.json.decode(summarise(PLAN, evidence(), "0").to_json())
    (reported["threats"][0] if place == "threats" else reported)["masking"]["verdict"] = "cleared"
    with pytest.raises(UserError, match=r"not a summary file .*'cleared'.*masking.verdict"):
        Summary.from_json(msgspec.json.encode(reported))


def test_panels_of_two_questions_have_different_titles():
    other = plan(examples=tuple(range(100)), threats=(PlannedThreat("linf:0.1", (PlannedAttack("apgd", APGD, 1),)),))
    reported = render([summarise(PLAN, evidence(), "0"), summarise(other, evidence(), "0")], masking=True)
    titles = [part.partition("**")[0] for part in reported.split("**Gradient masking of ")[1:]]
    assert len(titles) == len(set(titles)) == 2
    assert f"{THREAT} by apgd" in titles[0]
    assert "linf:0.1 by apgd" in titles[1]
    assert "**Gradient masking of " in render([summarise(PLAN, evidence(), "0")], masking=True)


def test_a_table_names_the_threats_of_each_verdict_if_they_differ():
    threats = tuple(PlannedThreat(f"linf:0.{i}", (PlannedAttack("apgd", APGD, 1),)) for i in (1, 2, 3))
    question = plan(examples=tuple(range(100)), threats=threats)
    parts = [evidence(threat="linf:0.1", probes={"zero": 1.0}), evidence(threat="linf:0.3")]
    both = msgspec.structs.replace(
        parts[0],
        probes=(*parts[0].probes, *parts[1].probes),
        masking=(*parts[0].masking, *parts[1].masking),
        exhausted=(),
    )
    summary = summarise(question, both, "0")
    lines = render([summary]).splitlines()
    assert [t.masking.verdict for t in summary.threats] == ["masked", "untested", "untested"]
    assert "Gradient masking: masked under linf:0.1; untested elsewhere." in lines
    one = summarise(PLAN, evidence(), "0")
    assert "Gradient masking: none-found." in render([one]).splitlines()
