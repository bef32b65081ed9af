"""The page of a paper holds what its runs give, and refuses runs and texts that do not fit."""

from pathlib import Path

import msgspec
import pytest

from robench.errors import UserError
from robench.evaluation.recorded import recorded_summary
from robench.reproduction.comparison import Kind, comparison, orders, restricted, times
from robench.reproduction.course import course
from robench.reproduction.page import page
from robench.reproduction.plans import Measured, PaperTable, PlannedModel, Size, read
from robench.reproduction.prose import filled

from ..results.tables.test_tables import models

RUNS = Path(__file__).parents[2] / "reports" / "runs"
THREATS = ("linf:0.2", "l2:2", "l1:10")
MODELS = (
    PlannedModel("nat", "nat", published={"clean": 0.5, "union": 0.0}, hours=2.0),
    PlannedModel("eat", "eat", ("linf", "l1"), {"union": 0.9}, hours=4.0),
    PlannedModel("sat", "sat", ("linf", "l2", "l1"), {}),
)
TABLE = PaperTable("1", "Digits", THREATS, MODELS, base="nat")
MEASURED = Measured("digits", "digits network", "digits-{model}", "digits-{model}.robench")


@pytest.fixture(scope="module")
def kind():
    found = {name: recorded_summary(RUNS / f"digits-{name}.robench") for name in ("nat", "eat")}
    return Kind(MEASURED, found, missing={"sat": "robench train sat --out digits-sat"})


def rows(table):
    return {(row["model"], row["source"].partition(",")[0]): row for row in table.frame.to_dict("records")}


def test_published_numbers_stand_above_ours_and_those_outside_our_interval_are_marked(kind):
    cells = rows(comparison(TABLE, [kind]))
    assert cells["nat", "published"]["clean"] == "50.0"
    assert cells["eat", "published"]["clean"] == "–"
    ours = comparison(TABLE, [kind]).frame.iloc[1]
    assert ours["source"] == f"digits network, {kind.summaries['nat'].data.examples} images"
    assert ours["clean"].endswith(" ≠")
    assert "[" in ours["clean"]
    assert not ours["union"].endswith("≠")


def test_a_model_without_a_run_has_a_row_that_states_it(kind):
    assert ("sat", "digits network: not trained yet") in rows(comparison(TABLE, [kind]))
    assert ("sat", "published") not in rows(comparison(TABLE, [kind]))  # the paper prints nothing of it


def test_a_union_of_some_threats_is_that_of_the_examples(kind):
    summary = kind.summaries["eat"]
    some = restricted(summary, THREATS[:2])
    both = [set(letters) == {"S"} for letters in zip(*(t.outcomes for t in summary.threats[:2]), strict=True)]
    assert some.union.standing == sum(both)
    assert some.union.accuracy == sum(both) / len(both) > summary.union.accuracy
    assert restricted(summary, THREATS).union == summary.union
    assert restricted(summary, THREATS).average == summary.average


def test_models_are_ordered_as_published_and_as_measured(kind):
    models = (
        PlannedModel("eat", "eat", published={"union": 0.2}),
        PlannedModel("nat", "nat", published={"union": 0.3}),
    )
    frame = orders(PaperTable("1", "Digits", THREATS, models), [kind], "union").frame
    assert list(frame["published"]) == ["nat (30.0)", "eat (20.0)"]
    assert [text.split()[0] for text in frame["digits network"]] == ["eat", "nat"]
    assert orders(TABLE, [kind], "average") is None


def test_a_bound_has_no_place_in_an_order(kind):
    models = [PlannedModel(name, name, published={"union": 0.2}) for name in ("eat", "nat", "more")]
    table = PaperTable("1", "Digits", THREATS, tuple(models))
    eat = kind.summaries["eat"]
    first = msgspec.structs.replace(eat.threats[0], outcomes=eat.threats[0].outcomes.replace("S", "O"))
    unfinished = restricted(msgspec.structs.replace(eat, threats=(first, *eat.threats[1:])), THREATS)
    found = Kind(MEASURED, {**kind.summaries, "more": unfinished})
    assert len([text for text in orders(table, [found], "union").frame["digits network"] if text]) == 2
    assert orders(table, [Kind(MEASURED, {"more": unfinished, "eat": eat})], "union") is None


def test_training_times_are_compared_where_they_are_published(kind):
    assert list(times(TABLE, [kind]).frame["of nat"]) == ["1.0", "2.0", ""]
    assert times(PaperTable("1", "Digits", THREATS, MODELS), [kind]) is None


def test_a_text_names_its_numbers(kind):
    summary = kind.summaries["eat"]
    text = "{paper eat union} {digits eat union} {digits eat l2:2 count} {digits eat l2:2 of pgd}"
    published, union, standing, tried = filled(text, TABLE, {"digits": kind.summaries}).split()
    assert published == "90.0"
    assert union == f"{100 * summary.union.accuracy:.1f}"
    assert int(standing) == summary.threats[1].standing
    assert int(tried) == summary.threats[1].attacks[0].tried
    both = filled("{digits eat all l2:2 l1:10}", TABLE, {"digits": kind.summaries})
    assert int(both) == restricted(summary, ("l2:2", "l1:10")).union.standing


def test_union_and_average_in_a_text_are_those_of_the_table(kind):
    united = THREATS[:2]
    table = PaperTable("3", "Digits", THREATS, MODELS, united=united)
    some = restricted(kind.summaries["eat"], united)
    text = filled("{digits eat union} {digits eat union count} {digits eat average}", table, {"digits": kind.summaries})
    assert text == f"{100 * some.union.accuracy:.1f} {some.union.standing} {100 * some.average.accuracy:.1f}"
    assert text != filled(
        "{digits eat union} {digits eat union count} {digits eat average}", TABLE, {"digits": kind.summaries}
    )


def test_two_models_are_compared_on_the_same_images(kind):
    text = filled("{digits nat > eat union}", TABLE, {"digits": kind.summaries})
    alone = kind.summaries["eat"].union.standing
    assert text == f"0 and {alone}, p < 0.001"
    assert filled("{digits nat > nat average}", TABLE, {"digits": kind.summaries}) == "p = 1"
    assert filled("{digits nat > eat average}", TABLE, {"digits": kind.summaries}) == "p < 0.001"


@pytest.mark.parametrize(
    "name",
    ["digits sat union", "digits nat l3:1", "paper sat union", "digits nat union twice", "other nat union", "digits"],
)
def test_a_number_that_no_run_gives_is_refused(kind, name):
    with pytest.raises(UserError, match="no run gives"):
        filled(f"{{{name}}}", TABLE, {"digits": kind.summaries})


def test_a_course_needs_a_snapshot(kind):
    with pytest.raises(UserError, match="no summary is that of a snapshot"):
        course(list(kind.summaries.values()), "figure")


def two(**letters):
    """Summaries by name, with a letter per example under each of two threats."""
    made = [models({name.replace("_", "-"): rows}, THREATS[:2])[0] for name, rows in letters.items()]
    return {summary.model.name: summary for summary in made}


def test_a_course_names_the_models_whose_open_examples_count_as_accuracy():
    finished = two(max_0010=("SSBB", "SBBB"), max_0020=("SSSB", "SSBB"))
    assert "Open examples" not in course(list(finished.values()), "figure").caption
    unfinished = finished | two(max_0020=("SSOB", "SSBB"))
    assert course(list(unfinished.values()), "figure").caption.endswith(
        "Open examples, which count as accuracy: max-0020."
    )


def test_the_order_beside_the_published_one_has_bounds_last_and_marks_them():
    plan = tuple(PlannedModel(name, "nat", published={"union": n / 10}) for n, name in enumerate("abc", 1))
    table = PaperTable("1", "Digits", THREATS[:2], plan)
    size = Size("digits", THREATS[:2], "quick", 4, "none")
    made = two(a=("OOOO", "OOOO"), b=("SSSB", "SSBB"), c=("SBBB", "SBBB"))
    text = page(read("tramer2019"), table, size, made, {}, "robench reproduce")
    order = text.partition("Order by union")[2].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in order]
    assert [row for row in rows if row and row[0].isdigit()] == [
        ["1", "c (30.0)", "b (50.0)"],
        ["2", "b (20.0)", "c (25.0)"],
        ["3", "a (10.0)", "a (≤ 100.0 (4 open))"],
    ]
