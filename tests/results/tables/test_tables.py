import csv
import io
import json

import msgspec
import pytest

from robench.errors import UserError
from robench.evidence.records import Evidence, PlannedThreat
from robench.results.summarising import summarise
from robench.results.summary import Summary
from robench.results.tables import breakdown, main_tables, render

from ..made import APGD, EVIDENCE, LINF, ONE_PGD, PGD, PLAN, accepted, claim, clean, exhausted, plan

SUMMARY = summarise(PLAN, EVIDENCE, "0.1.0")


def finished(every_attack=False, **changes):
    """Ten examples, one wrong, two broken, nothing open."""
    asked = plan(tuple(range(10)), (PlannedThreat("linf:0.3", (PGD, APGD)),), every_attack, **changes)
    evidence = Evidence(
        clean=tuple(clean(e, correct=e != 0) for e in range(10)),
        claims=(claim(1, 1), claim(2, 2)),
        verdicts=(accepted(1), accepted(2)),
        exhausted=tuple(s for e in range(1, 10) for s in (exhausted(e, 0b11), exhausted(e, 1, attack=APGD.spec))),
    )
    return summarise(asked, evidence, "0.1.0")


def standing(count, n=100, still_open=0, **changes):
    """The first so many of n examples stand under one threat, the next are open, and the rest are broken."""
    letters = "S" * count + "O" * still_open + "B" * (n - count - still_open)
    return models({changes.pop("name", "net"): (letters,)}, **changes)[0]


def models(letters, threats=(), **changes):
    """Summaries by hand: by model, a letter per example under each threat. No example is open before an attack."""
    made = []
    for name, rows in letters.items():
        titles = threats or (("linf:0.3",) if len(rows) == 1 else tuple(f"t{i}:1" for i in range(len(rows))))
        examples = tuple(range(len(rows[0])))
        planned = tuple(PlannedThreat(title, (ONE_PGD,)) for title in titles)
        cases = [(e, title, row[e]) for title, row in zip(titles, rows, strict=True) for e in examples]
        broken = [(number, e, title) for number, (e, title, letter) in enumerate(cases, 1) if letter == "B"]
        evidence = Evidence(
            clean=tuple(clean(e, correct=all(row[e] != "W" for row in rows)) for e in examples),
            claims=tuple(claim(number, e, title) for number, e, title in broken),
            verdicts=tuple(accepted(number) for number, _, _ in broken),
            exhausted=tuple(exhausted(e, 1, threat=title) for e, title, letter in cases if letter == "S"),
        )
        made.append(summarise(plan(examples, planned, name=name, **changes), evidence, "0.1.0"))
        assert [t.outcomes for t in made[-1].threats] == list(rows)
    return made


def test_a_table_with_open_examples_prints_bounds_and_says_why():
    assert render([SUMMARY]) == (
        "| model   |           clean |                  linf:0.3 |            l2:2"
        " |                     union |   average |\n"
        "|:--------|----------------:|--------------------------:|----------------:"
        "|--------------------------:|----------:|\n"
        "| net     | ≤ 87.5 (1 open) | ≤ 62.5 (2 open, 1 failed) | ≤ 62.5 (1 open)"
        " | ≤ 50.0 (2 open, 1 failed) |    ≤ 62.5 |\n"
        "\n"
        "8 examples of mnist:test; protocol quick; seed 0.\n"
        "Percent of all examples standing after this protocol: upper bounds on robust accuracy.\n"
        "≤: searches are still to do, or ended with an error; examples counted as open or failed may yet break.\n"
        "Gradient masking: untested.\n"
        "pgd on linf:0.3: 1 claim rejected (lies at 0.31, outside linf:0.3).\n"
        "pgd on linf:0.3: failed on 1 example (RuntimeError: no gradient).\n"
    )


def test_a_finished_table_of_one_threat_has_neither_union_nor_average():
    # Wilson, worked out apart: 9 of 10 is [59.6, 98.2], 7 of 10 is [39.7, 89.2].
    assert render([finished()], intervals=True) == (
        "| model   |             clean |          linf:0.3 |\n"
        "|:--------|------------------:|------------------:|\n"
        "| net     | 90.0 [59.6, 98.2] | 70.0 [39.7, 89.2] |\n"
        "\n"
        "10 examples of mnist:test; protocol quick; seed 0.\n"
        "Percent of all examples standing after this protocol: upper bounds on robust accuracy.\n"
        "In brackets 95 % intervals for this protocol; for true robustness only the upper end of an interval holds.\n"
        "Gradient masking: untested.\n"
    )


def test_a_table_without_threats_speaks_of_clean_accuracy_only():
    assert render([summarise(plan(threats=()), EVIDENCE, "")]) == (
        "| model   |           clean |\n"
        "|:--------|----------------:|\n"
        "| net     | ≤ 87.5 (1 open) |\n"
        "\n"
        "8 examples of mnist:test; protocol quick; seed 0.\n"
        "No threat was planned: accuracy before any attack.\n"
    )


def test_a_breakdown_stopped_early_counts_what_was_left_standing():
    assert breakdown(SUMMARY).markdown() == (
        "**Attacks on net**\n"
        "\n"
        "| threat   | attack   |   tried |   broken |            left |   seconds |   forwards |   backwards |\n"
        "|:---------|:---------|--------:|---------:|----------------:|----------:|-----------:|------------:|\n"
        "| linf:0.3 | pgd      |       5 |        1 | 3 of 5 standing |       3.2 |        160 |         158 |\n"
        "| linf:0.3 | apgd     |       5 |        1 | 4 of 5 standing |       2.0 |        414 |         409 |\n"
        "| l2:2     | pgd      |       5 |        1 | 4 of 5 standing |       1.5 |        170 |         169 |\n"
        "\n"
        "An attack ran only on examples that earlier ones left; --every-attack measures each attack alone.\n"
        "l2:2: 1 more example broken by an image found under another threat or by an attack not listed.\n"
    )


def test_an_example_that_an_attack_broke_is_not_left_standing_by_it():
    assert list(breakdown(finished()).frame["left"]) == ["7 of 9 standing", "9 of 9 standing"]


def test_a_breakdown_with_every_attack_gives_accuracies_and_what_each_broke_alone():
    frame = breakdown(finished(every_attack=True)).frame
    assert list(frame["left"]) == ["70.0", "90.0"]
    assert list(frame["alone"]) == ["2", "0"]


def test_models_share_a_table_only_for_the_same_question():
    same = [finished(), finished(name="other", seed=3)]
    (table,) = main_tables(same)
    assert list(table.frame["model"]) == ["net", "other"]
    assert table.footer[0] == "10 examples of mnist:test; protocol quick; seeds 0, 3."
    for changes in ({"data": "digits:test"}, {"data_sha256": "0" * 64}, {"protocol": "standard"}):
        assert len(main_tables([finished(), finished(**changes), finished()])) == 2
    other_threat = summarise(plan(threats=(LINF,)), EVIDENCE, "")
    assert len(main_tables([SUMMARY, other_threat])) == 2


def test_tables_of_different_questions_carry_captions():
    text = render([finished(), SUMMARY])
    assert "**10 examples of mnist:test (da7ada7a), protocol quick: linf:0.3 by pgd, apgd**\n\n| model" in text
    assert "**8 examples of mnist:test (da7ada7a), protocol quick: linf:0.3 by pgd, apgd; l2:2 by pgd**" in text


def test_remarks_name_the_model_they_are_about():
    two = [SUMMARY, summarise(plan(name="other"), EVIDENCE, "")]
    assert "other, pgd on linf:0.3: 1 claim rejected (lies at 0.31, outside linf:0.3).\n" in render(two)


def test_models_of_one_name_are_distinguished_by_their_weights():
    (table,) = main_tables([finished(), finished(weights="ab" * 32)])
    assert list(table.frame["model"]) == ["net (5eed5eed)", "net (abababab)"]


def test_ties_and_nan_answers_are_remarked_on():
    odd = msgspec.structs.replace(finished(), ties=2, nan=1)
    assert render([odd]).endswith("clean: 2 predictions tied between two classes.\nclean: 1 prediction not a number.\n")


def test_a_name_cannot_break_the_table():
    assert "| a\\|b c  |" in render([finished(name="a|b\nc")])


def test_csv_holds_fractions_and_counts():
    rows = list(csv.DictReader(io.StringIO(render([SUMMARY, finished()], "csv"))))
    assert [(r["threat"], r["accuracy"], r["open"]) for r in rows] == [
        ("linf:0.3", "0.625", "3"),
        ("l2:2", "0.625", "1"),
        ("union", "0.5", "3"),
        ("average", "0.625", "4"),
        ("linf:0.3", "0.7", "0"),
        ("union", "0.7", "0"),
        ("average", "0.7", "0"),
    ]
    assert {r["clean"] for r in rows} == {"0.875", "0.9"}


def test_csv_of_the_attacks_holds_the_fields_of_the_summary():
    rows = list(csv.DictReader(io.StringIO(render([SUMMARY, finished(every_attack=True)], "csv", attacks=True))))
    assert [(r["threat"], r["attack"], r["tried"], r["accuracy"], r["alone"]) for r in rows] == [
        ("linf:0.3", "pgd", "5", "", ""),
        ("linf:0.3", "apgd", "5", "", ""),
        ("l2:2", "pgd", "5", "", ""),
        ("linf:0.3", "pgd", "9", "0.7", "2"),
        ("linf:0.3", "apgd", "9", "0.9", "0"),
    ]


def test_json_is_the_summary_file_and_of_several_a_list():
    assert Summary.from_json(render([SUMMARY], "json")) == SUMMARY
    assert json.loads(render([SUMMARY, finished()], "json"))[1] == json.loads(finished().to_json())


def test_markdown_with_attacks_ends_with_a_breakdown_of_each_model():
    text = render([finished(), finished(name="other")], attacks=True)
    assert [line for line in text.split("\n") if line.startswith("**Attacks on")] == [
        "**Attacks on net**",
        "**Attacks on other**",
    ]
    assert render([summarise(plan(threats=()), EVIDENCE, "")], attacks=True).endswith("\n\nNo attack ran.\n")


def test_unknown_formats_and_empty_reports_are_refused():
    with pytest.raises(UserError, match="no format is called 'markdow'; did you mean markdown"):
        render([SUMMARY], "markdow")
    with pytest.raises(UserError, match="nothing to report"):
        render([])
