"""The verdict on masking, on records made by hand."""

import math

import msgspec
import pytest

from robench.errors import UserError
from robench.evidence.records import Evidence, Failure, PlannedAttack, PlannedThreat, Probe
from robench.results.masking import verdict as masking
from robench.results.masking.verdict import BY, contest, findings, joint, kind_of
from robench.results.summary import Summary, summarise
from robench.results.tables import render
from robench.search.attacks import ATTACKS, build

from ..made import accepted, claim, clean, exhausted, plan

THREAT = "linf:0.3"
APGD, SQUARE = "apgd(loss='margin', steps=100, targets=0)", "square(p_init=0.8, steps=200, targets=0)"
REMEDY = f"pgd(loss='margin', steps=40){BY}repaired"
PLAN = plan(examples=tuple(range(100)), threats=(PlannedThreat(THREAT, (PlannedAttack("apgd", APGD, 1),)),))
SOUND = {"zero": 0.0, "not finite": 0.0, "loss zero": 0.0, "leads": 1.0, "slope": 1.0, "agrees": 1.0, "same": 0.0,
         "blind": 0.0, "norm": 2.0}  # fmt: skip
WHOLE = {"no gradient": 0.0, "repeatable": 1.0, "alone": 0.0, "training layers": 0.0, "inner gradients": 0.0,
         "probabilities": 0.0, "one-hot": 0.0, "log-probabilities": 0.0, "spread": 3.0, "compiled": 0.0}  # fmt: skip


def evidence(left=60, broken=0, by=SQUARE, controlled=True, tried=True, probes=None, whole=None, threat=THREAT):
    """100 examples: `left` of them withstand APGD, and of these the first `broken` fall to something else."""
    broken = [(claim(i + 1, i, threat, by), accepted(i + 1)) for i in range(broken)]
    broken += [(claim(i + 1, i, threat, APGD), accepted(i + 1)) for i in range(left, 100)]
    searched = (
        [exhausted(i, 1, threat, SQUARE, forwards=200, backwards=0) for i in range(broken, left)] if tried else []
    )
    cost = masking.CONTROL if controlled else masking.CONTROL - 1
    withstood = [exhausted(i, 1, threat, APGD, forwards=cost, backwards=cost) for i in range(left)]
    told = [Probe(threat, i, name, value) for i in range(40) for name, value in {**SOUND, **(probes or {})}.items()]
    told += [Probe("", -1, name, value) for name, value in {**WHOLE, **(whole or {})}.items()]
    told += [Probe(threat, i, masking.SAMPLED, 1.0) for i in range(left)]
    return Evidence(
        clean=tuple(clean(i) for i in range(100)),
        claims=tuple(c for c, _ in broken),
        verdicts=tuple(v for _, v in broken),
        exhausted=(*searched, *withstood),
        probes=(*told, Probe(threat, -1, masking.DEPTH, masking.ON)),
    )


def verdict(of, question=PLAN):
    return findings(question, of)[THREAT].verdict


def tail(hits, n, share):
    """P(X >= hits), term by term."""
    return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(hits, n + 1))


def test_every_attack_is_of_the_kind_that_it_reads():
    for name, attack in ATTACKS.items():
        kind = kind_of(build(name, {}).spec)
        if kind == "first-order":
            assert attack.reads == "gradients", name
        elif kind in ("scores", "labels"):
            assert attack.reads == {"scores": "logits", "labels": "labels"}[kind], name
        elif kind == "outside":
            assert attack.comes_from_outside, name
        else:  # it owns its loop, or moves images rather than pixels
            assert kind == "other"
            assert attack.reads == "anything" or not set(attack.threats) & {"linf", "l2", "l1"}, name


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (SQUARE, "scores"),
        (f"{SQUARE} under l2:1", "scores"),
        (f"{APGD} over 20 passes", "first-order"),
        (REMEDY, "remedy"),
        (f"{REMEDY} under linf:0.2", "remedy"),
        ("foolbox:BoundaryAttack(steps=3)", "other"),
        ("old()", "other"),
    ],
)
def test_a_kind_is_read_from_the_key_of_the_evidence(spec, kind):
    assert kind_of(spec) == kind


@pytest.mark.parametrize("by", [SQUARE, "pointwise(steps=40, wide=4)", REMEDY])
def test_enough_images_that_only_others_break_make_it_masked(by):
    found = findings(PLAN, evidence(broken=8, by=by))[THREAT]
    assert found.verdict == "masked"
    assert "of 60 images sampled that first-order attacks leave, 8 fell to other evidence" in found.evidence[0]


@pytest.mark.parametrize("left", [2, 10, 60, 100])
def test_it_is_masked_exactly_from_the_first_count_that_the_binomial_test_rejects(left):
    needed = next(k for k in range(1, left + 1) if tail(k, left, 0.01) <= 0.01)
    assert verdict(evidence(left, broken=needed)) == "masked"
    if needed > 1:
        assert verdict(evidence(left, broken=needed - 1)) == "none-found"
    assert contest(PLAN, evidence(left, broken=needed), THREAT).p == pytest.approx(tail(needed, left, 0.01))


def test_one_image_accuses_nobody():
    found = findings(PLAN, evidence(left=1, broken=1))[THREAT]
    assert found.verdict == "none-found"
    assert found.evidence[0].endswith("1 fell to other evidence (square 1); too few to tell")


def test_what_falls_at_least_is_never_said_to_be_less_than_the_test_has_rejected():
    told = findings(PLAN, evidence(left=15, broken=2))[THREAT].evidence[0]
    assert told.endswith("p = 0.01 that no more than 1 % do; at least 1 % do (99 %)")


def test_an_image_is_searched_once_every_attack_that_it_is_to_be_shown_to_has_been_there():
    one = evidence()
    pointwise = "pointwise(steps=40, wide=4)"
    named = tuple(Probe(THREAT, -1, f"{masking.SHOWN}{spec}", masking.ON) for spec in (SQUARE, pointwise))
    short = msgspec.structs.replace(one, probes=(*one.probes, *named))
    found = findings(PLAN, short)[THREAT]
    assert found.verdict == "untested"
    assert (
        "60 images not yet searched by every attack of another kind: the same command again goes on" in found.evidence
    )
    rest = tuple(exhausted(i, 1, THREAT, pointwise) for i in range(59))
    failed = (Failure(59, THREAT, pointwise, "RuntimeError: no"),)
    assert verdict(msgspec.structs.replace(short, exhausted=(*short.exhausted, *rest), failures=failed)) == "none-found"
    deeper = Probe(THREAT, -1, f"{masking.SHOWN}{SQUARE}", masking.DEEP)  # with the first look's others left undone
    assert verdict(msgspec.structs.replace(short, probes=(*one.probes, named[1], deeper))) == "none-found"


def test_what_first_order_attacks_break_too_counts_for_nothing():
    both = evidence(broken=8)
    again = [(claim(200 + i, i, THREAT, f"{APGD} under l2:9"), accepted(200 + i)) for i in range(8)]
    both = msgspec.structs.replace(
        both,
        claims=(*both.claims, *(c for c, _ in again)),
        verdicts=(*both.verdicts, *(v for _, v in again)),
    )
    assert contest(PLAN, both, THREAT).left == 52
    assert contest(PLAN, both, THREAT).broken.total() == 0
    assert verdict(both) == "suspect"  # the planned attacks spared them all the same


def test_what_first_order_attacks_were_not_tried_on_hard_enough_is_suspicious_and_convicts_nobody():
    assert findings(PLAN, evidence(broken=2, controlled=False))[THREAT].verdict == "untested"
    found = findings(PLAN, evidence(broken=8, controlled=False))[THREAT]
    assert found.verdict == "suspect"
    assert "the planned attacks spared 60 images of which 8 fell later" in found.evidence
    assert any("8 images more fell" in sentence for sentence in found.evidence)


def test_the_cross_entropy_is_no_control():
    weak = evidence(broken=8)
    spec = APGD.replace("margin", "cross-entropy")
    swapped = tuple(msgspec.structs.replace(s, attack=spec) if s.attack == APGD else s for s in weak.exhausted)
    assert verdict(msgspec.structs.replace(weak, exhausted=swapped)) == "suspect"
    assert verdict(weak) == "masked"


def test_where_first_order_attacks_could_not_run_at_all_others_convict_alone():
    without = evidence(broken=8, controlled=False)
    raised = tuple(Failure(i, THREAT, APGD, "RuntimeError: no grad") for i in range(8))
    square = tuple(s for s in without.exhausted if s.attack == SQUARE)
    assert verdict(msgspec.structs.replace(without, exhausted=square, failures=raised)) == "masked"


def test_an_attack_that_failed_beside_one_that_was_too_short_convicts_nobody():
    short = evidence(broken=8, controlled=False)
    failed = tuple(Failure(i, THREAT, "apgd(loss='cross-entropy')", "out of memory") for i in range(8))
    assert verdict(evidence(broken=8)) == "masked"
    assert verdict(msgspec.structs.replace(short, failures=failed)) == "suspect"


def test_only_the_sample_is_counted_whatever_else_was_broken():
    few = evidence(broken=8)
    kept = tuple(p for p in few.probes if p.name != masking.SAMPLED or p.example >= 8)
    assert contest(PLAN, msgspec.structs.replace(few, probes=kept), THREAT).broken.total() == 0
    assert verdict(msgspec.structs.replace(few, probes=kept)) == "none-found"


def test_what_a_planned_attack_of_another_kind_broke_was_not_spared():
    planned = (PlannedAttack("apgd", APGD, 1), PlannedAttack("square", SQUARE, 1))
    question = plan(examples=tuple(range(100)), threats=(PlannedThreat(THREAT, planned),))
    found = contest(question, evidence(broken=8, controlled=False), THREAT)
    assert (found.survived, found.broken_later, found.too_weak) == (52, 0, False)
    found = contest(PLAN, evidence(broken=8, controlled=False), THREAT)
    assert (found.survived, found.broken_later, found.too_weak) == (60, 8, True)


def test_what_nobody_else_has_searched_is_untested_and_nothing_left_is_nothing_to_hide():
    assert verdict(evidence(tried=False)) == "untested"
    found = findings(PLAN, evidence(left=0))[THREAT]
    assert found.verdict == "none-found"
    assert found.evidence == ("first-order attacks leave nothing that masking could hide",)
    assert found.next == ""


def test_a_run_that_was_not_looked_into_is_untested_and_its_summary_says_no_more_than_before():
    plain = msgspec.structs.replace(evidence(broken=8), probes=())
    assert findings(PLAN, plain)[THREAT] == masking.Finding("untested")
    told = msgspec.json.decode(summarise(PLAN, plain, "0").to_json())
    assert told["threats"][0]["masking"] == {"verdict": "untested", "evidence": [], "next": ""}
    assert told["masking"] == {"verdict": "untested", "evidence": []}


def test_several_threats_share_the_level_as_holm_has_it():
    threats = tuple(PlannedThreat(f"linf:0.{i}", (PlannedAttack("apgd", APGD, 1),)) for i in range(1, 6))
    question = plan(examples=tuple(range(100)), threats=threats)
    barely = next(k for k in range(1, 60) if tail(k, 60, 0.01) <= 0.01)
    assert tail(barely, 60, 0.01) > 0.01 / 5
    parts = [evidence(broken=barely if i == 1 else 0, threat=f"linf:0.{i}") for i in range(1, 6)]
    # Claims of one radius lie in the larger ones too: keep each threat's own by separate examples of its own plan.
    alone = findings(plan(examples=tuple(range(100)), threats=threats[:1]), parts[0])
    assert alone["linf:0.1"].verdict == "masked"
    values = {f"linf:0.{i}": contest(question, part, f"linf:0.{i}").p for i, part in enumerate(parts, start=1)}
    assert masking._holm(values) == set()
    assert masking._holm({"a": 0.0001, "b": 0.004, "c": 0.006, "d": 0.5}) == {"a"}
    assert masking._holm({"a": 0.0001, "b": 0.003, "c": 0.006, "d": 0.5}) == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("zero", 0.5), ("not finite", 1.0), ("loss zero", 1.0), ("leads", 0.0), ("slope", -1.0), ("slope", 30.0)],
        *[("agrees", 0.1), ("same", 1.0), ("blind", 0.5)],
    ],
)
def test_one_odd_probe_on_all_examples_is_suspicious(name, value):
    found = findings(PLAN, evidence(probes={name: value}))[THREAT]
    assert found.verdict == "suspect"
    assert len([i for i in found.indicators if i.suspicious]) == 1
    assert len(found.evidence) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("no gradient", 1.0), ("repeatable", 0.0), ("alone", 0.5), ("training layers", 1.0), ("spread", 1e4)],
        *[("inner gradients", 3.0), ("probabilities", 1.0), ("one-hot", 1.0), ("spread", 1e-9)],
    ],
)
def test_one_odd_property_of_the_model_is_suspicious(name, value):
    assert verdict(evidence(whole={name: value})) == "suspect"


@pytest.mark.parametrize(("name", "value"), [("log-probabilities", 1.0), ("compiled", 1.0), ("spread", 40.0)])
def test_what_honest_models_have_too_is_not(name, value):
    assert verdict(evidence(whole={name: value})) == "none-found"


def test_pixels_are_not_called_few_where_none_has_a_gradient():
    (told,) = (i for i in findings(PLAN, evidence(probes={"blind": 1.0}))[THREAT].indicators if i.name == masking.BLIND)
    assert (told.suspicious, told.meaning) == (False, "nothing to compare with where no pixel has one")


def test_a_few_odd_examples_are_not_suspicious():
    some = evidence()
    odd = tuple(Probe(THREAT, i, "zero", 1.0) for i in range(3))
    kept = tuple(p for p in some.probes if not (p.name == "zero" and p.example in range(3)))
    assert verdict(msgspec.structs.replace(some, probes=(*kept, *odd))) == "none-found"


def test_the_worst_verdict_of_all_threats_stands_for_the_model():
    found = {name: masking.Finding(name, (f"because {name}",)) for name in ("none-found", "untested", "suspect")}
    assert joint(found)[0] == "suspect"
    assert joint({**found, "x": masking.Finding("masked")})[0] == "masked"
    assert joint({"a": masking.Finding("none-found"), "b": masking.Finding("untested")})[0] == "untested"
    assert joint({"a": masking.Finding("none-found", ("why",))}) == ("none-found", ("a: why",))
    assert joint({}) == ("untested", ())


def test_the_order_and_repetition_of_records_changes_nothing():
    told = evidence(broken=8, probes={"zero": 1.0})
    turned = Evidence(**{
        name: tuple(reversed(getattr(told, name) * 2)) for name in ("clean", "claims", "verdicts", "spent")
    }, probes=told.probes[::-1])  # fmt: skip
    assert findings(PLAN, turned)[THREAT].verdict == findings(PLAN, told)[THREAT].verdict == "masked"
    assert contest(PLAN, turned, THREAT) == contest(PLAN, told, THREAT)


def test_a_table_marks_it_and_the_panel_says_why_and_what_to_type():
    masked = evidence(broken=8, probes={"zero": 1.0})
    masked = msgspec.structs.replace(masked, environment={"checkpoint": "/somewhere/net.pt"})
    summary = summarise(PLAN, masked, "0")
    assert Summary.from_json(summary.to_json()) == summary
    told = render([summary], masking=True)
    assert "52.0†" in told
    assert "| linf:0.3 | gradient exactly 0 (!) " in told.replace("   ", " ").replace("  ", " ")
    assert "Next, for linf:0.3: the same robench evaluate command with --masking deep" in told
    assert "/somewhere" not in told
    assert told.count("spread of the logits") == 1
    for form in ("latex", "html", "json"):
        assert "gradient exactly 0" in render([summary], form, masking=True)
    assert "(!)" not in render([summarise(PLAN, evidence(), "0")], masking=True)


def test_the_panel_says_why_it_is_suspect_or_not_done_and_for_which_threats_its_advice_is():
    threats = tuple(PlannedThreat(f"linf:0.{i}", (PlannedAttack("apgd", APGD, 1),)) for i in (1, 2))
    question = plan(examples=tuple(range(100)), threats=threats)
    parts = [evidence(broken=8, controlled=False, threat="linf:0.1"), evidence(tried=False, threat="linf:0.2")]
    fields = ("spent", "probes", "claims", "verdicts")
    apart = {name: getattr(parts[0], name) + (getattr(parts[1], name) if name[0] in "sp" else ()) for name in fields}
    told = render([summarise(question, Evidence(clean=parts[0].clean, **apart), "0")], masking=True)
    assert "; the planned attacks spared 60 images of which 8 fell later; 8 images more fell, on which" in told
    assert "images not yet searched by every attack of another kind: the same command again goes on." in told
    assert "Next, for linf:0.1, linf:0.2: the same robench evaluate command with --masking deep\n" in told


@pytest.mark.parametrize(("level", "word"), [(masking.ON, "on"), (masking.DEEP, "deep")])
def test_a_look_that_was_cut_short_is_told_to_go_on_at_its_own_level(level, word):
    cut = evidence(tried=False)
    looked = tuple(p for p in cut.probes if p.name != masking.DEPTH)
    found = findings(PLAN, msgspec.structs.replace(cut, probes=(*looked, Probe(THREAT, -1, masking.DEPTH, level))))
    assert found[THREAT].verdict == "untested"
    assert found[THREAT].next == f"the same robench evaluate command with --masking {word}, to go on"


@pytest.mark.parametrize(("level", "word"), [(masking.ON, "on"), (masking.DEEP, "deep")])
def test_a_threat_whose_turn_had_not_come_is_not_said_to_be_one_that_nobody_wants_looked_at(level, word):
    begun = Probe(THREAT, -1, masking.BEGUN, level)
    stopped = msgspec.structs.replace(evidence(broken=8), probes=(begun,))
    found = findings(PLAN, stopped)[THREAT]
    assert found.verdict == "untested"
    assert found.next == f"the same robench evaluate command with --masking {word}, to go on"
    told = render([summarise(PLAN, stopped, "0")], masking=True)
    assert f"{THREAT} untested: the run was stopped before it looked here.\n" in told
    assert "nobody has looked" not in told


@pytest.mark.parametrize("place", ["threats", "whole"])
def test_a_summary_with_a_verdict_of_its_own_words_is_refused(place):
    told = msgspec.json.decode(summarise(PLAN, evidence(), "0").to_json())
    (told["threats"][0] if place == "threats" else told)["masking"]["verdict"] = "cleared"
    with pytest.raises(UserError, match=r"not a summary file .*'cleared'.*masking.verdict"):
        Summary.from_json(msgspec.json.encode(told))


def test_panels_of_two_questions_say_which_they_are_about():
    other = plan(examples=tuple(range(100)), threats=(PlannedThreat("linf:0.1", (PlannedAttack("apgd", APGD, 1),)),))
    told = render([summarise(PLAN, evidence(), "0"), summarise(other, evidence(), "0")], masking=True)
    titles = [part.partition("**")[0] for part in told.split("**Gradient masking of ")[1:]]
    assert len(titles) == len(set(titles)) == 2
    assert f"{THREAT} by apgd" in titles[0]
    assert "linf:0.1 by apgd" in titles[1]
    assert "**Gradient masking of " in render([summarise(PLAN, evidence(), "0")], masking=True)


def test_a_table_says_which_verdict_is_of_which_threat_where_they_differ():
    threats = tuple(PlannedThreat(f"linf:0.{i}", (PlannedAttack("apgd", APGD, 1),)) for i in (1, 2, 3))
    question = plan(examples=tuple(range(100)), threats=threats)
    parts = [evidence(threat="linf:0.1", probes={"zero": 1.0}), evidence(threat="linf:0.3")]
    both = msgspec.structs.replace(parts[0], probes=(*parts[0].probes, *parts[1].probes), exhausted=())
    summary = summarise(question, both, "0")
    lines = render([summary]).splitlines()
    assert [t.masking.verdict for t in summary.threats] == ["suspect", "untested", "untested"]
    assert "Gradient masking: suspect under linf:0.1; untested elsewhere." in lines
    one = summarise(PLAN, evidence(), "0")
    assert "Gradient masking: none-found." in render([one]).splitlines()
