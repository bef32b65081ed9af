"""The history of a row: who set its numbers, who lowered them, and in which order."""

from dataclasses import replace
from itertools import permutations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robench.evidence.records import Failure, PlannedAttack
from robench.leaderboard.entries import json_files
from robench.leaderboard.feed import changes
from robench.leaderboard.history import Source, in_order
from robench.leaderboard.submissions import challenge

from ..results.made import clean
from .made import PGD, board, recorded

APGD = PlannedAttack("apgd", "apgd(steps=100)", items=1)
EARLY, LATE = "2026-11-26T06:10:00Z", "2027-01-01T00:00:00Z"


def dated(rows, date="", **changes):
    return recorded(rows, environment={"date": date} if date else {}, **changes)


def submitted(run, name="sent", by="Ada"):
    """The run as a challenge to the board."""
    evidence, _ = run.read()
    plan, known = challenge(
        run.plan, evidence, {c.id for c in evidence.claims}, run.plan.model.name, "claim(sha256='')"
    )
    return replace(run, plan=plan, read=lambda: (known, None), submission=name, by=by)


def entries(*runs):
    (table,) = board(*runs).tables
    (row,) = table.models
    return row


def shown(row):
    return [(e.date, e.source, e.by, e.lowered) for e in row.history]


def test_a_row_of_one_run_has_one_entry():
    row = entries(dated(["WBBSO", "WSBBO"], EARLY, protocol="quick"))
    assert shown(row) == [(EARLY, "quick", "", {"linf:0.3": 2, "l2:2": 2, "union": 3})]
    (entry,) = row.history
    assert (entry.threats, entry.union, entry.average) == ((2 / 5, 2 / 5), 1 / 5, 2 / 5)


def test_an_entry_counts_the_examples_that_were_open_and_says_so():
    row = entries(dated(["WBSO", "WSOO"], EARLY, protocol="quick"), dated(["WBBS", "WSSO"], LATE, protocol="quick"))
    first, last = row.history
    assert (first.open, first.union_open, first.union) == ((1, 2), 2, 2 / 4)
    assert (last.open, last.union_open, last.union) == ((0, 1), 1, 1 / 4)
    assert [change.title for change in changes(board(dated(["WBSO", "WSOO"], EARLY)))] == [
        "net: union ≤ 50.0 % on mnist:test"
    ]
    (change,) = changes(board(dated(["WBSO", "WSOO"], EARLY)))
    assert change.sentence.endswith("Now ≤ 50.0 % stand under linf:0.3, l2:2, with 2 examples open.")


def test_an_entry_is_not_measured_where_every_attack_failed():
    run = dated(["OW"], EARLY)
    evidence, _ = run.read()
    failures = (Failure(0, "linf:0.3", PGD.spec, "Boom"),)
    failing = msgspec.structs.replace(evidence, clean=(clean(0), clean(1, correct=False)), failures=failures)
    (change,) = changes(board(replace(run, read=lambda: (failing, None))))
    assert change.entry.unmeasured == ("linf:0.3",)
    assert change.title == "net: union not measured on mnist:test"
    assert change.sentence.endswith("Nothing is measured yet under linf:0.3.")


def test_a_submission_lowers_a_number_and_is_credited():
    row = entries(dated(["SSSB", "SSSS"], protocol="quick"), submitted(dated(["BSSB", "OOOO"], LATE)))
    assert shown(row) == [
        ("", "quick", "", {"linf:0.3": 1, "union": 1}),
        (LATE, "sent", "Ada", {"linf:0.3": 1, "union": 1}),
    ]
    assert [e.union for e in row.history] == [3 / 4, 2 / 4]
    assert row.union.accuracy == 2 / 4


def test_of_a_challenge_nothing_but_broken_examples_counts():
    known = dated(["SOOW", "OSSW"], protocol="quick")
    sent = dated(["SSBB", "SSSS"], LATE)
    row = entries(known, submitted(sent))
    assert [t.outcomes for t in row.threats] == ["SOBW", "OSSW"]
    assert (row.protocol, row.other_protocols, row.seeds, row.backwards) == (
        "quick",
        (),
        (0,),
        entries(known).backwards,
    )


def test_a_challenge_about_examples_without_an_answer_counts_for_nothing():
    row = entries(dated(["SOOO"], protocol="quick"), submitted(dated(["BBOO"])))
    assert row.threats[0].outcomes == "BOOO"
    assert [e.union for e in row.history] == [1.0, 3 / 4]


def test_a_run_that_breaks_nothing_new_has_no_entry():
    first = dated(["SBSB"], EARLY)
    assert shown(entries(first, submitted(first), dated(["SBSS"], LATE, seed=1))) == shown(entries(first))


def test_the_first_of_two_submissions_with_one_image_is_credited():
    known = dated(["SSSS"])
    one, two = submitted(dated(["BSSS"], LATE), "one", "Ada"), submitted(dated(["BBSS"], EARLY), "two", "Bob")
    assert shown(entries(known, one, two))[1:] == [(EARLY, "two", "Bob", {"linf:0.3": 2, "union": 2})]


def test_an_image_of_another_threat_or_a_smaller_ball_counts_where_it_lies():
    row = entries(dated(["SSSS", "SSSS"]), submitted(dated(["BSSS", "SBSS"], LATE, threats=("linf:0.2", "l1:10"))))
    assert row.history[1].lowered == {"linf:0.3": 1, "union": 1}


@pytest.mark.parametrize("date", ["", "0001-01-01T00:00:00Z"])
def test_a_submission_that_is_backdated_takes_no_credit_from_the_first_run_of_the_board(date):
    row = entries(dated(["BSSS"], EARLY, protocol="quick"), submitted(dated(["BBSS"], date)))
    assert [(e.source, e.lowered["union"]) for e in row.history] == [("quick", 1), ("sent", 1)]


def test_a_row_begins_with_a_run_of_its_own_question():
    other = dated(["BSSS"], EARLY, threats=("linf:0.2",), protocol="other")
    table = next(t for t in board(other, dated(["BBSS"], LATE, protocol="quick")).tables if "linf:0.3" in t.threats)
    (row,) = table.models
    assert [(e.source, e.lowered["union"]) for e in row.history] == [("quick", 2)]


def test_a_later_protocol_that_leaves_less_does_not_hide_what_an_earlier_one_left():
    row = entries(dated(["SSOB"], EARLY, protocol="quick"), dated(["SSBB"], LATE, attack=APGD, protocol="long"))
    assert row.protocol == "long"
    assert [(e.source, e.union, e.union_open) for e in row.history] == [("quick", 3 / 4, 3), ("long", 2 / 4, 0)]


def test_runs_are_in_the_order_of_their_dates_and_the_board_comes_before_submissions():
    sources = [
        Source("undated submission", "Ada", True, "", "a"),
        Source("late", "", False, LATE, "a"),
        Source("submission of that date", "Ada", True, LATE, "0"),
        Source("early", "", False, EARLY, "b"),
        Source("early too", "", False, EARLY, "a"),
        Source("undated", "", False, "", "z"),
    ]
    assert [sources[place].name for place in in_order(sources)] == [
        "undated", "early too", "early", "late", "submission of that date", "undated submission",
    ]  # fmt: skip


def test_neither_order_nor_repetition_of_runs_changes_a_byte():
    runs = [
        dated(["SSSB", "SSSS"], protocol="quick"),
        dated(["SSBB", "SSSS"], EARLY, attack=APGD, protocol="long"),
        submitted(dated(["BSSS", "OOOO"], LATE), "one", "Ada"),
        submitted(dated(["BSSS", "OOOO"], LATE), "two", "Bob"),
    ]
    (wanted,) = {b"".join(json_files([board(*order)]).values()) for order in permutations(runs)}
    assert b"".join(json_files([board(*runs, *runs)]).values()) == wanted


LETTERS = st.text("WBSO", min_size=5, max_size=5)


@pytest.mark.costly
@given(st.lists(st.tuples(LETTERS, LETTERS, st.sampled_from(["", EARLY, LATE]), st.booleans()), min_size=1, max_size=4))
@settings(max_examples=40)
def test_the_last_entry_has_the_numbers_of_the_row(made):
    runs = [dated(["SSSSS", "OOOOO"], protocol="first")]
    for seed, (one, two, date, sent) in enumerate(made):
        run = dated([one, two], date, seed=seed)
        runs.append(submitted(run, f"sent-{seed}") if sent else run)
    (table,) = board(*runs).tables
    (row,) = table.models
    last = row.history[-1]
    assert last.threats == tuple(t.share.accuracy for t in row.threats)
    assert (last.union, last.average) == (row.union.accuracy, row.average.accuracy)
    unions = [e.union for e in row.history]
    assert unions == sorted(unions, reverse=True)
    for place, threat in enumerate(table.threats):
        assert sum(e.lowered.get(threat, 0) for e in row.history) == row.threats[place].broken
