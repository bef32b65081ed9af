"""What cards state beside what was measured: published rows, certificates, and the number of parameters."""

import json
import re

import msgspec
import pytest

from robench.errors import UserError
from robench.leaderboard.certified import implies
from robench.leaderboard.claimed import Publication
from robench.leaderboard.collect import Background, boards
from robench.leaderboard.entries import CardFacts, Certified, ClaimedRow, json_files

from .made import NAMES, board, recorded, same
from .test_collect import only_row


def publication(name="net", source="A 2020, Table 1", data="mnist:test", threats=NAMES[:2], **accuracy):
    return Publication(data, frozenset(threats), ClaimedRow(name, source, accuracy or {"union": 0.5}))


def claimed(*publications, runs=None):
    (found,) = boards(runs or [recorded(["SB", "SS"])], same, Background(publications))
    return [table.claimed for table in found.tables]


def test_published_rows_stand_beside_the_table_about_the_same_data_and_threats():
    others = [
        publication("a", data="digits:test"),
        publication("b", threats=NAMES[:1]),
        publication("c", threats=NAMES[:3]),
        publication("d", data="mnist:train"),
    ]
    assert claimed(publication(), *others) == [(ClaimedRow("net", "A 2020, Table 1", {"union": 0.5}),)]
    assert claimed(publication(threats=("l2:2", "linf:0.3"))) == claimed(publication())


def test_published_rows_stand_beside_the_largest_table_with_their_threats_alone():
    runs = [recorded(["SB", "SS"], name="a"), recorded(["SB", "SB"], name="b"), recorded(["SBS", "SSS"], name="a")]
    assert [bool(rows) for rows in claimed(publication(), runs=runs)] == [True, False]


def test_published_rows_hold_only_columns_of_the_table_in_their_order():
    numbers = {"average": 0.3, "union": 0.2, "l2:2": 0.4, "other": 0.9, "linf:0.3": 0.1, "clean": 0.99}
    (row,) = claimed(Publication("mnist:test", frozenset(NAMES[:2]), ClaimedRow("net", "A", numbers)))[0]
    assert list(row.accuracy.items()) == [
        ("clean", 0.99), ("linf:0.3", 0.1), ("l2:2", 0.4), ("union", 0.2), ("average", 0.3),
    ]  # fmt: skip
    assert claimed(publication(other=0.9)) == [()]


def test_a_published_number_changes_no_mark_rank_or_score():
    runs = [recorded(["S" * 40], NAMES[:1], name="a"), recorded(["SB" * 20], NAMES[:1], name="b")]
    best = publication(name="b", threats=NAMES[:1], union=1.0, clean=1.0)
    (bare,), (beside,) = boards(runs, same), boards(runs, same, Background([best]))
    assert [table.models for table in bare.tables] == [table.models for table in beside.tables]
    assert beside.tables[0].claimed


def test_neither_order_nor_repetition_of_publications_changes_a_byte():
    some = [publication("b"), publication("a"), publication("a", source="B")]
    wanted = json_files(boards([recorded(["SB", "SS"])], same, Background(some)))
    assert json_files(boards([recorded(["SB", "SS"])], same, Background([*reversed(some), *some]))) == wanted
    assert [(row.source, row.name) for row in claimed(*some)[0]] == [
        ("A 2020, Table 1", "a"), ("A 2020, Table 1", "b"), ("B", "a"),
    ]  # fmt: skip


def certifying(accuracy, threat="linf:0.3", letters="S" * 20 + "B" * 20):
    facts = CardFacts(certified=(Certified(threat, accuracy, "interval bounds"),))
    return only_row(recorded([letters], card=facts))


def test_a_certificate_below_the_measured_accuracy_is_shown_without_a_note():
    row = certifying(0.5)
    assert row.card.certified == (Certified("linf:0.3", 0.5, "interval bounds"),)
    assert not [note for note in row.notes if "certified" in note]


def test_a_certificate_above_the_measured_accuracy_is_noted_because_it_is_about_more_examples():
    (note,) = [note for note in certifying(0.55).notes if "certified" in note]
    assert note == (
        "certified is an accuracy of 0.55 under linf:0.3 on the whole test part; "
        "at most 0.5 of these examples withstand linf:0.3"
    )


@pytest.mark.parametrize(("accuracy", "threat"), [(0.7, "linf:0.3"), (0.7, "linf:0.31"), (1.0, "linf:1/2")])
def test_a_certificate_above_the_interval_is_refused(accuracy, threat):
    with pytest.raises(UserError, match=r"the card of net certifies .* withstand linf:0.3; correct the card"):
        certifying(accuracy, threat)


@pytest.mark.parametrize("threat", ["linf:0.2", "l2:2", "rt:3px,30deg", "nonsense"])
def test_a_certificate_under_a_weaker_or_another_threat_contradicts_nothing(threat):
    assert certifying(1.0, threat).notes == certifying(0.0).notes


def test_a_lower_bound_holds_in_every_smaller_ball_of_the_norm():
    assert implies("linf:8/255", "linf:8/255")
    assert implies("linf:8/255", "linf:0.03")
    assert implies("rt:3px,30deg", "rt:3px,30deg")
    assert not implies("linf:0.03", "linf:8/255")
    assert not implies("l2:2", "linf:0.1")
    assert not implies("rt:3px,30deg", "rt:2px,20deg")


@pytest.mark.parametrize(
    ("text", "card", "wanted"),
    [
        ("54822", None, 54822),
        ("54822", CardFacts(parameters=1), 54822),
        ("", CardFacts(parameters=54822), 54822),
        ("", CardFacts(), None),
        ("", None, None),
        ("1 | 2", CardFacts(parameters=1), None),
        ("-1", None, None),
        ("٣", None, None),
        ("9" * 400, None, None),
    ],
)
def test_parameters_are_those_of_the_run_else_of_the_card(text, card, wanted):
    assert only_row(recorded(["SB"], environment={"parameters": text}, card=card)).parameters == wanted
    assert board(recorded(["SB"], environment={"parameters": text}, card=card)).to_json()


def test_a_board_is_indented_json_with_its_innermost_values_on_one_line():
    notes = "braces {\n[1,\n2]\n} and \u2028 in a text"
    found = board(recorded(["SB"], card=CardFacts(notes=notes)))
    text = found.to_json()
    assert json.loads(text) == json.loads(msgspec.json.encode(found))
    lines = text.decode().split("\n")
    assert len(lines) > 40
    assert not [line for line in lines if re.fullmatch(r"\s*-?[\d.]+,?", line)], "no number has a line of its own"
    assert [line for line in lines if re.fullmatch(r"\s*\{\"name\": .*\},?", line)], "an attack is on one line"
