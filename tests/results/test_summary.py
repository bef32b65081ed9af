import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robench.errors import UserError
from robench.evidence.records import Clean, Evidence, Exhausted, PlannedAttack, PlannedThreat
from robench.results.attack_rows import FailureEntry
from robench.results.stats.intervals import average, wilson
from robench.results.summarising import summarise
from robench.results.summary import Summary, ThreatMaskingEntry

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
    outside,
    plan,
    stirred,
)

SUMMARY = summarise(PLAN, EVIDENCE, "0.1.0")

# Copied from the contract, with the values taken out.
CONTRACT = {
    "": "schema robench model data protocol seed clean threats union average masking cost environment",
    "model": "name weights_sha256 architecture",
    "data": "name examples sha256",
    "clean": "accuracy ci95 correct",
    "threats": "threat accuracy ci95 wrong broken standing open outcomes rejected attacks curve masking",
    "threats.attacks": "name tried accuracy broken alone seconds forwards backwards",
    "threats.curve": "radius accuracy",
    "threats.masking": "verdict evidence next",
    "union": "accuracy ci95 wrong broken standing open outcomes",
    "average": "accuracy ci95",
    "masking": "verdict evidence",
    "cost": "seconds forwards backwards",
}


@pytest.mark.parametrize("path", CONTRACT)
def test_the_file_has_the_fields_of_the_contract_in_their_order_and_others_only_after(path):
    part = json.loads(SUMMARY.to_json())
    for name in path.split(".") if path else []:
        part = part[name][0] if isinstance(part[name], list) else part[name]
    wanted = CONTRACT[path].split()
    assert list(part)[: len(wanted)] == wanted


def test_the_file_by_hand():
    file = json.loads(SUMMARY.to_json())
    assert file["schema"] == "robench.summary/1"
    assert file["robench"] == "0.1.0"
    known = {"name": "net", "weights_sha256": "5eed" * 16, "architecture": "small"}
    assert file["model"] == known | {"normalisation": "none", "fingerprint": "0.5"}
    assert file["data"] == {"name": "mnist:test", "examples": 8, "sha256": "da7a" * 16, "numbers": "20:28"}
    assert file["clean"] == {
        "accuracy": 7 / 8,
        "ci95": [round(wilson(6, 8)[0], 6), round(wilson(7, 8)[1], 6)],
        "correct": 6,
        "open": 1,
        "error": "",
    }
    linf, l2 = file["threats"]
    counts = ("wrong", "broken", "standing", "open", "accuracy", "outcomes")
    assert [linf[c] for c in counts] == [1, 2, 2, 3, 5 / 8, ANSWERS["linf:0.3"]]
    assert [l2[c] for c in counts] == [1, 2, 4, 1, 5 / 8, ANSWERS["l2:2"]]
    assert [file["union"][c] for c in counts] == [1, 3, 1, 3, 4 / 8, UNION]
    assert file["average"]["accuracy"] == 5 / 8
    assert linf["ci95"] == [round(wilson(2, 8)[0], 6), round(wilson(5, 8)[1], 6)]
    assert linf["rejected"] == {"outside": 1, "outside the box": 0, "does not fool": 0, "not finite": 0}
    assert linf["curve"] == {"radius": [], "accuracy": []}
    assert linf["masking"] == {
        "verdict": "untested",
        "evidence": [],
        "next": "",
    }
    assert (linf["elsewhere"], l2["elsewhere"]) == (0, 1)
    assert file["masking"] == {"verdict": "untested", "evidence": []}
    assert file["environment"] == {"torch": "2.6"}


def test_the_attacks_of_an_early_stopped_run_by_hand():
    pgd, apgd = json.loads(SUMMARY.to_json())["threats"][0]["attacks"]
    # A claim costs 10 and 9; pgd was spent three times whole (40) and once by half (20), apgd four times (101, 100).
    assert pgd == {
        "name": "pgd",
        "tried": 5,
        "accuracy": None,
        "broken": 1,
        "alone": None,
        "seconds": 3.25,
        "forwards": 2 * 10 + 3 * 40 + 20,
        "backwards": 2 * 9 + 3 * 40 + 20,
        "spec": PGD.spec,
        "standing": 3,
        "items": 2,
        "outcomes": "",
        "near": None,
        "sample": None,
        "passed_over": 0,
    }
    assert (apgd["name"], apgd["tried"], apgd["broken"], apgd["standing"]) == ("apgd", 5, 1, 4)
    cost = SUMMARY.cost
    assert (cost.seconds, cost.forwards) == (6.75, pgd["forwards"] + apgd["forwards"] + 10 + 4 * 40)


def test_rejections_and_failures_name_the_attack_and_quote_the_sentence():
    linf = SUMMARY.threats[0]
    assert [(r.attack, r.rejection, r.claims, r.reason) for r in linf.rejections] == [
        ("pgd", "outside", 1, "lies at 0.31, outside linf:0.3")
    ]
    assert [(f.attack, f.examples, f.error) for f in linf.failures] == [("pgd", 1, "RuntimeError: no gradient")]


def test_a_failure_is_not_reported_after_the_attack_has_finished():
    mended = msgspec.structs.replace(EVIDENCE, exhausted=(*EVIDENCE.exhausted, exhausted(26, 0b11)))
    assert summarise(PLAN, mended, "").threats[0].failures == ()


def of_four(*finds, exhausted=(), every_attack=True):
    """A threat with two attacks on four correct examples: claims by (example, attack), all accepted."""
    claims = [claim(i, example, attack=attack.spec) for i, (example, attack) in enumerate(finds, start=1)]
    evidence = Evidence(
        clean=tuple(map(clean, range(4))),
        claims=tuple(claims),
        verdicts=tuple(accepted(c.id) for c in claims),
        exhausted=tuple(exhausted),
    )
    asked = plan(tuple(range(4)), (PlannedThreat("linf:0.3", (PGD, APGD)),), every_attack)
    return summarise(asked, evidence, "").threats[0].attacks


WHOLE = [*(exhausted(e, 0b11) for e in (2, 3)), *(exhausted(e, 1, attack=APGD.spec) for e in (0, 3))]


def test_with_every_attack_each_gets_all_it_broke_and_what_it_broke_alone():
    pgd, apgd = of_four((0, PGD), (1, PGD), (1, APGD), (2, APGD), exhausted=WHOLE)
    assert (pgd.broken, pgd.accuracy, pgd.alone, pgd.standing) == (2, 0.5, 1, 2)
    assert (apgd.broken, apgd.accuracy, apgd.alone, apgd.standing) == (2, 0.5, 1, 2)


def test_accuracy_is_null_until_an_attack_has_run_everywhere_and_alone_until_all_have():
    pgd, apgd = of_four((0, PGD), (1, PGD), (1, APGD), (2, APGD), exhausted=WHOLE[:3])
    assert (pgd.accuracy, pgd.alone) == (0.5, None)
    assert (apgd.accuracy, apgd.alone) == (None, None)


def test_in_a_run_with_early_stop_the_first_attack_to_break_an_example_gets_the_credit():
    pgd, apgd = of_four((0, PGD), (1, APGD), (1, PGD), (2, APGD), exhausted=WHOLE, every_attack=False)
    assert (pgd.broken, apgd.broken) == (1, 2)
    assert (pgd.accuracy, pgd.alone) == (None, None)


def test_ties_and_nan_answers_are_counted():
    evidence = Evidence(
        clean=(clean(0, tied=True), clean(1), clean(2), Clean(3, "d", True, float("nan")), clean(9, tied=True)),
        claims=(claim(1, 1), claim(2, 2), claim(3, 2, attack=APGD.spec)),
        verdicts=(accepted(1, margin=0.0), accepted(2, margin=0.0), accepted(3, margin=0.1)),
    )
    summary = summarise(plan((0, 1, 2, 3)), evidence, "")
    assert (summary.ties, summary.nan, summary.threats[0].ties) == (1, 1, 1)


def test_a_clean_run_of_a_thousand_gives_the_numbers_of_the_contract():
    attack = PlannedAttack("pgd", "pgd()", 1)
    asked = plan(tuple(range(1000)), (PlannedThreat("linf:0.3", (attack,)),))
    evidence = Evidence(
        clean=tuple(clean(e, correct=e >= 9) for e in range(1000)),
        claims=tuple(claim(e, e, attack="pgd()") for e in range(9, 89)),
        verdicts=tuple(accepted(e) for e in range(9, 89)),
        exhausted=tuple(Exhausted(e, "linf:0.3", "pgd()", 1, 0, 0) for e in range(89, 1000)),
    )
    summary = summarise(asked, evidence, "0.1.0")
    (linf,) = summary.threats
    assert (linf.accuracy, linf.wrong, linf.broken, linf.standing, linf.open) == (0.911, 9, 80, 911, 0)
    assert linf.ci95 == pytest.approx((0.892, 0.927), abs=5e-4)
    assert summary.clean.accuracy == 0.991
    assert summary.clean.ci95 == pytest.approx((0.983, 0.995), abs=5e-4)
    # One threat: the union and the average are that threat.
    assert (summary.union.accuracy, summary.union.ci95) == (linf.accuracy, linf.ci95)
    assert summary.average.accuracy == pytest.approx(linf.accuracy)
    assert summary.average.ci95 == pytest.approx(linf.ci95, abs=1e-6)


def test_the_interval_of_an_average_covers_every_outcome_of_open_examples():
    low, high = SUMMARY.average.ci95

    def held(letters):
        return [[letter in letters for letter in row] for row in ANSWERS.values()]

    assert low == pytest.approx(average(np.array(held("S")))[0], abs=1e-6)
    assert high == pytest.approx(average(np.array(held("SO")))[1], abs=1e-6)


def test_a_plan_without_threats_is_about_clean_accuracy_and_claims_no_robustness():
    summary = summarise(plan(threats=()), EVIDENCE, "")
    assert (summary.union.outcomes, summary.union.standing) == ("WOOOOOOO", 0)
    assert (summary.average.accuracy, summary.average.ci95) == (None, None)
    assert Summary.from_json(summary.to_json()) == summary


@given(evidences(), st.integers())
def test_a_summary_depends_on_neither_order_nor_repetition(evidence, seed):
    again = stirred(evidence, seed)
    assert summarise(ANY_PLAN, again, "").to_json() == summarise(ANY_PLAN, evidence, "").to_json()


@given(evidences(), st.booleans())
def test_the_numbers_of_a_summary_agree_with_each_other(evidence, every_attack):
    asked = msgspec.structs.replace(ANY_PLAN, every_attack=every_attack)
    summary = summarise(asked, evidence, "")
    for part in (*summary.threats, summary.union):
        assert part.wrong + part.broken + part.standing + part.open == 4 == len(part.outcomes)
        assert part.accuracy == 1 - (part.wrong + part.broken) / 4
        assert part.ci95[0] <= part.standing / 4 <= part.accuracy <= part.ci95[1]
    accuracies = [t.accuracy for t in summary.threats]
    assert summary.union.accuracy <= min(accuracies) <= summary.average.accuracy <= max(accuracies)
    assert summary.average.ci95[0] <= summary.average.accuracy <= summary.average.ci95[1]
    for t in summary.threats:
        credited = [a.broken for a in t.attacks]
        if every_attack:
            assert max(credited, default=0) <= t.broken <= sum(credited) + t.elsewhere
        else:
            assert sum(credited) + t.elsewhere == t.broken
        for a in t.attacks:
            assert a.standing <= a.tried <= summary.clean.correct
            assert a.alone is None or a.alone <= a.broken
            assert a.accuracy is None or t.accuracy <= a.accuracy
    assert Summary.from_json(summary.to_json()) == summary


def test_a_later_version_may_add_fields():
    file = json.loads(SUMMARY.to_json()) | {"leaderboard": 1}
    file["threats"][0]["attacks"][0]["colour"] = "red"
    assert Summary.from_json(json.dumps(file)) == SUMMARY


def test_a_file_with_only_the_fields_of_the_contract_can_be_read():
    def only(part, path=""):
        if isinstance(part, list):
            return [only(item, path) for item in part]
        if not isinstance(part, dict) or path not in CONTRACT:
            return part
        return {name: only(part[name], f"{path}.{name}".strip(".")) for name in CONTRACT[path].split()}

    read = Summary.from_json(json.dumps(only(json.loads(SUMMARY.to_json()))))
    assert read.union == msgspec.structs.replace(SUMMARY.union, failed=0)
    assert read.threats[0].elsewhere == 0


@pytest.mark.parametrize("text", ["", "{}", "[1]", "<html>", '{"schema": 3}'])
def test_text_that_is_no_summary_is_refused(text):
    with pytest.raises(UserError, match="this is not a summary file"):
        Summary.from_json(text)


def test_a_file_of_another_schema_is_refused():
    with pytest.raises(UserError, match=r"says 'robench\.summary/2'"):
        Summary.from_json(SUMMARY.to_json().replace("summary/1", "summary/2"))


def test_the_file_is_indented_and_ends_with_a_newline():
    lines = SUMMARY.to_json().split("\n")
    assert lines[:2] == ["{", '  "schema": "robench.summary/1",']
    assert lines[-2:] == ["}", ""]


def test_the_frame_has_a_row_per_threat_then_union_and_average():
    frame = SUMMARY.to_frame()
    assert list(frame["threat"]) == ["linf:0.3", "l2:2", "union", "average"]
    assert list(frame["accuracy"]) == [0.625, 0.625, 0.5, 0.625]
    assert list(frame["open"]) == [3, 1, 3, 4]
    assert frame["standing"].isna().tolist() == [False, False, False, True]
    assert set(frame["model"]) == {"net"}
    assert tuple(frame.loc[2, ["low", "high"]]) == SUMMARY.union.ci95
    assert set(frame["masking"]) == {"untested"}
    assert set(frame["clean_open"]) == {SUMMARY.clean.open}


def test_the_frame_has_no_accuracy_where_every_attack_failed_and_none_of_an_average_over_it():
    failure = FailureEntry(attack="pgd()", error="RuntimeError", examples=8)
    failing = msgspec.structs.replace(
        SUMMARY.threats[1], broken=0, outcomes="WOOOOOOO", failures=(failure,), attacks=()
    )
    masked = msgspec.structs.replace(SUMMARY.threats[0], masking=ThreatMaskingEntry("masked"))
    frame = msgspec.structs.replace(SUMMARY, threats=(masked, failing)).to_frame()
    shares = frame[["accuracy", "low", "high"]]
    assert shares.isna().all(axis=1).tolist() == [False, True, False, True]
    assert frame["masking"].tolist() == ["masked", "untested", "untested", "untested"]
    assert msgspec.structs.replace(SUMMARY, threats=(failing,)).to_frame()["accuracy"].isna().all(), "nor a union"


def test_a_repeated_claim_id_is_one_rejected_claim():
    twice = Evidence(clean=(clean(20),), claims=(claim(1, 20), claim(1, 20)), verdicts=(outside(1), outside(1)))
    assert summarise(PLAN, twice, "").threats[0].rejected["outside"] == 1


def damaged(change):
    """The summary file after a change behind our back."""
    file = json.loads(SUMMARY.to_json())
    change(file)
    return json.dumps(file)


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        (lambda file: file["threats"][1].update(broken=7), "the outcomes of l2:2 do not fit its counts"),
        (lambda file: file["union"].update(outcomes="WBBBOSOX"), "the outcomes of union do not fit its counts"),
        (lambda file: file["data"].update(examples=9), "linf:0.3 has 8 outcomes"),
    ],
)
def test_a_summary_file_whose_outcomes_do_not_fit_its_counts_is_refused(change, reported):
    with pytest.raises(UserError, match=f"this summary file is damaged: {reported}"):
        Summary.from_json(damaged(change))
