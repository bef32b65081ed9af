"""Boards from runs: who stands in one table, which evidence counts, and how they are ordered."""

from dataclasses import replace
from itertools import permutations

import msgspec
import pytest

from robench.errors import UserError
from robench.evidence.records import Failure, PlannedAttack
from robench.leaderboard.collect import boards, slug
from robench.leaderboard.entries import CardFacts, json_files

from ..results.made import clean
from .made import NAMES, PGD, board, recorded, same

APGD = PlannedAttack("apgd", "apgd(steps=100)", items=1)


def only_row(*runs):
    (table,) = board(*runs).tables
    (row,) = table.models
    return row


def test_a_row_has_the_numbers_of_its_run():
    row = only_row(recorded(["WBBSSOSS", "WSBSBSSO"], seed=3, protocol="mine"))
    assert [t.outcomes for t in row.threats] == ["WBBSSOSS", "WSBSBSSO"]
    assert [t.share.accuracy for t in row.threats] == [5 / 8, 5 / 8]
    assert (row.union.accuracy, row.union.open, row.average.accuracy) == (4 / 8, 2, 5 / 8)
    assert (row.clean.accuracy, row.protocol, row.seeds) == (7 / 8, "mine", (3,))
    assert sum(row.patterns.values()) == 8
    assert row.patterns["BS"] == 1
    assert (row.backwards, row.beyond, row.card) == (8 * 40 + 4 * 9, 0, None)


def test_models_stand_in_one_table_only_with_the_same_examples_and_threats():
    runs = [
        recorded(["SS", "SS"], name="a"),
        recorded(["SB", "SS"], name="b"),
        recorded(["SS", "SS"], ("linf:0.3", "l1:10"), name="a"),
        recorded(["SSS", "SSS"], name="a", data_sha256="ffff"),
    ]
    tables = board(*runs).tables
    assert [[row.name for row in table.models] for table in tables] == [["a", "b"], ["a"], ["a"]]
    assert [(table.threats, table.examples) for table in tables] == [
        (NAMES[:2], 2), (NAMES[:2], 3), (("linf:0.3", "l1:10"), 2),
    ]  # fmt: skip


def test_data_sets_have_boards_of_their_own():
    runs = [recorded(["SS"], data="mnist:test"), recorded(["SS"], data="digits:test")]
    assert [(b.id, b.data) for b in boards(runs, same)] == [
        ("digits-test", "digits:test"),
        ("mnist-test", "mnist:test"),
    ]


def test_a_threat_in_another_order_is_the_same_question():
    other = recorded(["SB", "BB"], ("l2:2", "linf:0.3"), name="b")
    (table,) = board(recorded(["SS", "SB"], name="a"), recorded(["SS", "SB"], name="c"), other).tables
    assert table.threats == ("linf:0.3", "l2:2")
    assert {row.name: [t.outcomes for t in row.threats] for row in table.models}["b"] == ["BB", "SB"]


def test_copies_of_a_run_do_not_decide_on_the_order_of_threats():
    one, other = recorded(["SS", "SB"], name="a"), recorded(["SB", "BB"], ("l2:2", "linf:0.3"), name="b")
    assert board(one, other) == board(one, other, other, other) == board(one, one, other)


def test_runs_of_one_model_and_question_merge_to_the_worst_outcome():
    row = only_row(recorded(["SSSO", "SBSS"]), recorded(["SBSS", "SSSS"], seed=1))
    assert [t.outcomes for t in row.threats] == ["SBSS", "SBSS"]
    assert row.seeds == (0, 1)
    assert row.beyond == 0


def test_evidence_of_a_run_about_other_threats_lowers_the_number():
    tables = board(recorded(["SSSS", "SSSB"]), recorded(["SBSS", "SSSS"], ("linf:0.3", "l1:10"))).tables
    assert [[t.outcomes for t in table.models[0].threats] for table in tables] == [["SBSS", "SSSS"], ["SBSS", "SSSB"]]
    row = tables[1].models[0]
    assert (row.union.accuracy, row.protocol_union, row.beyond) == (0.5, 0.75, 1)
    assert (row.threats[0].share.accuracy, row.threats[0].protocol_accuracy) == (0.75, 1.0)


def test_elsewhere_counts_the_examples_that_the_protocol_does_not_break():
    own = recorded(["BSSS", "SSSB"])
    other = recorded(["BBSS", "SSSS"], ("linf:0.3", "l1:10"), attack=APGD, size=0.01)
    row = board(own, other).tables[1].models[0]
    assert [t.threat for t in row.threats] == ["linf:0.3", "l2:2"]
    assert [(t.broken, t.elsewhere) for t in row.threats] == [(2, 1), (1, 0)]


def test_of_several_protocols_the_row_is_the_one_with_the_fewest_open_examples():
    row = only_row(recorded(["SSSB"], protocol="quick"), recorded(["SBOO"], protocol="long", attack=APGD))
    assert (row.protocol, row.other_protocols, row.threats[0].outcomes) == ("quick", ("long",), "SBSB")


@pytest.mark.parametrize("bar", ["|", "'|'"])
def test_a_merged_run_has_the_commands_of_its_parts(bar):
    row = only_row(recorded(["SS"], environment={"command": f"robench evaluate a {bar} robench evaluate b"}))
    assert row.commands == ("robench evaluate a", "robench evaluate b")


def test_two_models_with_one_name_have_two_rows():
    (table,) = board(recorded(["SS"], weights="aa" * 32), recorded(["SB"], weights="bb" * 32)).tables
    assert len({row.id for row in table.models}) == 2


def test_the_best_and_all_that_are_not_significantly_worse_are_marked():
    runs = [recorded(["S" * 40], name="a"), recorded(["SB" + "S" * 38], name="b"), recorded(["B" * 40], name="c")]
    (table,) = board(*runs).tables
    assert {row.name: row.union.rank for row in table.models} == {"a": "best", "b": "best", "c": ""}


def test_a_bound_is_not_ranked():
    (table,) = board(recorded(["SSSS"], name="a"), recorded(["OOOO"], name="b")).tables
    ranks = {row.name: (row.union.accuracy, row.union.open, row.union.rank) for row in table.models}
    assert ranks["b"] == (1.0, 4, "")


def test_bounds_come_after_all_accuracies_and_what_was_not_measured_last():
    lost = recorded(["OO"], name="lost", environment={})
    evidence, _ = lost.read()
    failures = tuple(Failure(e, "linf:0.3", PGD.spec, "Boom") for e in range(2))
    failing = msgspec.structs.replace(evidence, clean=(clean(0), clean(1)), failures=failures)
    runs = [
        recorded(["OO"], name="open"),
        replace(lost, read=lambda: (failing, None)),
        recorded(["SB"], name="half"),
        recorded(["BB"], name="none"),
        recorded(["OS"], name="almost open"),
    ]
    (table,) = board(*runs).tables
    assert [row.name for row in table.models] == ["half", "none", "almost open", "open", "lost"]


def test_neither_order_nor_repetition_of_runs_changes_a_byte():
    card = CardFacts("pgd_at", ("linf:0.3",), 3.5, "robench train pgd_at")
    runs = [
        recorded(["SSOB", "SBSS"], name="a", card=card),
        recorded(["SBSS", "SSSS"], name="a", seed=1, card=card),
        recorded(["SSSS", "SSSB"], name="b"),
        recorded(["SBBS", "SSSB"], ("linf:0.3", "l1:10"), name="a"),
    ]
    (wanted,) = {b"".join(json_files(boards(order, same)).values()) for order in permutations(runs)}
    assert b"".join(json_files(boards([*runs, *runs], same)).values()) == wanted


def test_a_model_with_two_names_has_one_row_whatever_the_order_of_its_runs():
    runs = [recorded(["SS"], name=name, weights="aa" * 32, seed=seed) for seed, name in enumerate("abc")]
    found = [
        boards(order, lambda one, other: one.weights_sha256 == other.weights_sha256) for order in permutations(runs)
    ]
    assert all(each == found[0] for each in found)
    assert len(found[0][0].tables[0].models) == 1


def test_runs_without_a_threat_are_refused():
    run = recorded(["SS"])
    bare = msgspec.structs.replace(run.plan, threats=())
    with pytest.raises(UserError, match="no threat"):
        boards([type(run)(bare, run.read)], same)


def test_runs_about_different_images_of_one_name_are_refused():
    run, other = recorded(["SS"]), recorded(["SS"], seed=1)
    evidence, card = other.read()
    changed = tuple(msgspec.structs.replace(c, digest="other") for c in evidence.clean)
    forged = type(run)(other.plan, lambda: (msgspec.structs.replace(evidence, clean=changed), card))
    with pytest.raises(UserError, match=r"the runs of 'net' on 'mnist:test': .* is not the same image"):
        boards([run, forged], same)


def test_a_name_with_control_characters_is_refused():
    with pytest.raises(UserError, match="cannot be shown"):
        board(recorded(["SS"], name="a\x1b[2J"))


@pytest.mark.parametrize("text", ["../../etc/passwd", "<script>", "a/b", "CON", "index", "", "é" * 300, "a b"])
def test_a_name_of_a_file_is_harmless_and_distinct(text):
    found = slug(text, text)
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert 0 < len(found) < 100
    assert found != slug(text + "x", text + "x")
    assert found not in ("index", "con")
