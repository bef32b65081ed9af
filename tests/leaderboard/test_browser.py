"""What a reader does on the page of a data set: sort, filter, choose threats, compare, with mouse or keyboard."""

from itertools import combinations

import pytest

from robench.leaderboard.patterns import at_levels, count_patterns, recompute
from robench.results.outcomes import union
from robench.results.stats.comparison import mcnemar

from . import browser as browsers
from .browser import missing, require_browser
from .made import NAMES


def values(section, column):
    """The numbers behind the cells of a column, by model."""
    cells = section.locator(f"tbody tr[data-model] td.{column}").evaluate_all(
        "cells => cells.map((cell) => [cell.closest('tr').dataset.model, cell.dataset.value])"
    )
    return {model: float(value) for model, value in cells}


def shown(section, column):
    """The texts of the cells of a column, by model."""
    rows = section.locator("tbody tr[data-model]").all()
    return {row.get_attribute("data-model"): row.locator(f"td.{column}").inner_text().split() for row in rows}


def names(section):
    return section.locator("tbody th.name a:visible").all_inner_texts()


def show_all_columns(section):
    section.locator(".columns summary").click()
    for box in section.locator(".column").all():
        box.check()


def percent(share):
    return f"{100 * share:.1f}"


@pytest.mark.parametrize("lacking", ["playwright", "chromium"])
def test_a_missing_browser_fails_where_one_is_required_and_skips_elsewhere(lacking, monkeypatch):
    monkeypatch.setattr(browsers.importlib.util, "find_spec", lambda name: None if name == lacking else name)
    monkeypatch.setattr(browsers.shutil, "which", lambda name: None if name == lacking else name)
    assert lacking in missing()
    monkeypatch.delenv(browsers.REQUIRE, raising=False)
    with pytest.raises(pytest.skip.Exception, match=lacking):
        require_browser()
    monkeypatch.setenv(browsers.REQUIRE, "1")
    with pytest.raises(pytest.fail.Exception, match=lacking):
        require_browser()


def order(is_bound, value):
    """What is not known comes below upper bounds, and these below accuracies."""
    number = float(value)
    return (0 if number < 0 else 1 if is_bound else 2), number


@pytest.mark.processes
def test_every_column_sorts_both_ways_as_python_does(section):
    show_all_columns(section)
    heads = section.locator(".main thead th:not(.pick)")
    assert heads.count() >= 12
    for place in range(heads.count()):
        head = heads.nth(place)
        text = head.get_attribute("data-kind") == "text"
        found = {}
        for _ in range(2):
            head.locator("button").click()
            column = head.evaluate(
                """head => [...head.closest('table').tBodies[0].rows].map(
                    (row) => [row.cells[head.cellIndex].dataset.bound !== undefined,
                        row.cells[head.cellIndex].dataset.value])"""
            )
            found[head.get_attribute("aria-sort")] = [value if text else order(*value) for value in column]
            assert section.locator("th[aria-sort]").count() == 1
        key = (lambda value: value[1].casefold()) if text else None
        assert found["ascending"] == sorted(found["ascending"], key=key)
        assert found["descending"] == sorted(found["ascending"], key=key, reverse=True)


@pytest.mark.costly
def test_the_numbers_that_are_sorted_are_those_of_the_table(section, table):
    for place, threat in enumerate(table.threats):
        head = section.locator("thead th", has_text=threat)
        column = head.evaluate(
            "head => [...head.closest('table').tBodies[0].rows].map("
            "(row) => [row.dataset.model, Number(row.cells[head.cellIndex].dataset.value)])"
        )
        assert dict(column) == {row.id: row.threats[place].share.accuracy for row in table.models}
    assert values(section, "union") == {row.id: row.union.accuracy for row in table.models}
    assert values(section, "average") == {row.id: row.average.accuracy for row in table.models}
    assert values(section, "clean") == {row.id: row.clean.accuracy for row in table.models}


@pytest.mark.processes
def test_the_filter_shows_the_models_whose_names_hold_its_text(section):
    section.locator(".filter").fill("MODEL-3")
    assert names(section) == ["model-3"]
    assert section.locator(".found").inner_text() == "1 of 7 models"
    section.locator(".filter").fill("no such model")
    assert names(section) == []
    assert section.locator(".found").inner_text() == "0 of 7 models"
    section.locator(".filter").fill("<B>")
    assert names(section) == ["<b>bold</b>"]
    section.locator(".filter").fill("")
    assert len(names(section)) == 7
    assert section.locator(".found").inner_text() == ""


@pytest.mark.processes
def test_every_set_of_ticked_threats_shows_pythons_numbers_to_the_last_digit(section, table):
    boxes = section.locator(".tick")
    for chosen in [c for size in (1, 2, 3, 4) for c in combinations(range(4), size)]:
        for place in range(4):
            boxes.nth(place).set_checked(place in chosen)
        wanted = {row.id: recompute(row.patterns, chosen) for row in table.models}
        assert values(section, "union") == {model: numbers.union for model, numbers in wanted.items()}
        assert values(section, "average") == {model: numbers.average for model, numbers in wanted.items()}
        unions, averages = shown(section, "union"), shown(section, "average")
        for model, numbers in wanted.items():
            words = [percent(numbers.union), "–".join(map(percent, numbers.union_ci95))]
            assert [word.rstrip("†") for word in unions[model]][-2:] == words
            assert (unions[model][0] == "≤") == (numbers.open > 0)
            words = [percent(numbers.average), "–".join(map(percent, numbers.average_ci95))]
            assert [word.rstrip("†") for word in averages[model]][-2:] == words


@pytest.mark.processes
def test_other_columns_stay_when_threats_are_ticked(section):
    before = values(section, "threat"), shown(section, "clean")
    section.locator(".tick").first.uncheck()
    assert (values(section, "threat"), shown(section, "clean")) == before


@pytest.mark.processes
def test_a_sorted_union_is_sorted_again_when_threats_are_ticked(section):
    section.locator(".tick").nth(0).uncheck()
    section.locator(".tick").nth(2).uncheck()
    unions = shown(section, "union")
    found = [order(unions[model][0] == "≤", value) for model, value in values(section, "union").items()]
    assert found == sorted(found, reverse=True)


@pytest.mark.processes
def test_without_a_threat_nothing_is_shown_and_marks_return_with_all(section):
    marked = section.locator("td.union strong").count()
    texts = shown(section, "union"), shown(section, "average")
    assert marked > 0
    for box in section.locator(".tick").all():
        box.uncheck()
    assert set(section.locator("tr[data-model] td.union").all_inner_texts()) == {"–"}
    for box in section.locator(".tick").all():
        box.check()
    assert section.locator("td.union strong").count() == marked
    assert (shown(section, "union"), shown(section, "average")) == texts


@pytest.mark.processes
def test_each_table_has_choices_of_its_own(page, content):
    one, other = (page.locator(f"[data-table='{table.id}']") for table in content.tables)
    before = shown(other, "union")
    one.locator(".tick").first.uncheck()
    assert shown(other, "union") == before
    assert other.locator(".tick:checked").count() == 2


def wait_for_numbers(section):
    """Levels load from scripts; until they are there, cells have no number."""
    handle = section.locator(".chosen").element_handle()
    section.page.wait_for_function(
        """(place) => /^(Union|$)/.test(place.textContent) && [
            ...place.closest('.board').querySelectorAll('tr[data-model] td.union')
        ].every((cell) => cell.textContent !== '–')""",
        arg=handle,
    )


@pytest.mark.processes
def test_radius_sliders_show_pythons_numbers_at_every_step(section, table):
    slides = section.locator(".slide")
    assert slides.count() == 2, "only threats with levels have a slider"
    boxes = section.locator(".tick")
    for steps, chosen in [
        ((7, 20), range(4)),
        ((7, 13), range(4)),
        ((0, 13), (0, 1)),
        ((20, 1), (1, 3)),
        ((3, 0), (0,)),
    ]:
        for place in range(4):
            boxes.nth(place).set_checked(place in chosen)
        for place, step in enumerate(steps):
            slides.nth(place).fill(str(step))
        wait_for_numbers(section)
        levels = (*steps, 20, 20)
        wanted = {
            row.id: at_levels(count_patterns([t.levels or t.outcomes for t in row.threats]), levels)
            for row in table.models
        }
        found = {model: recompute(patterns, chosen) for model, patterns in wanted.items()}
        assert values(section, "union") == {model: numbers.union for model, numbers in found.items()}
        assert values(section, "average") == {model: numbers.average for model, numbers in found.items()}
        for place in range(4):
            alone = {model: recompute(patterns, (place,)).union for model, patterns in wanted.items()}
            assert values(section, f"threat.t{place}") == alone
        unions = shown(section, "union")
        for model, numbers in found.items():
            words = [percent(numbers.union), "–".join(map(percent, numbers.union_ci95))]
            assert [word.rstrip("†") for word in unions[model]][-2:] == words


@pytest.mark.processes
def test_published_numbers_are_not_shown_for_other_threats_or_radii(section, table):
    row = section.locator("tbody.claimed tr").last
    cells = {name: row.locator(f"td.{name}") for name in ("union", "clean", "t0")}
    before = {"union": "50.0", "clean": "99.0", "t0": "62.5"}
    assert {name: cell.inner_text() for name, cell in cells.items()} == before
    section.locator(".tick").nth(1).uncheck()
    assert {name: cell.inner_text() for name, cell in cells.items()} == before | {"union": "–"}
    section.locator(".slide").first.fill("7")
    wait_for_numbers(section)
    assert {name: cell.inner_text() for name, cell in cells.items()} == before | {"union": "–", "t0": "–"}
    section.locator(".slide").first.fill("20")
    section.locator(".tick").nth(1).check()
    assert {name: cell.inner_text() for name, cell in cells.items()} == before


@pytest.mark.processes
def test_examples_on_which_models_differ_name_the_chosen_radius(section):
    for box in section.locator(".tick").all()[1:]:
        box.uncheck()
    section.locator(".slide").first.fill("10")
    for box in section.locator(".compare").all()[:2]:
        box.check()
    section.locator(".comparison figcaption").first.wait_for()
    texts = section.locator(".comparison figcaption").all_inner_texts()
    broken = [text for text in texts if " is broken under " in text]
    assert broken
    assert all(" is broken under linf:0.15" in text for text in broken)


def shown_p(p):
    if p < 0.0001:
        return "p < 0.0001"
    return f"p = {float(f'{p:.0e}')}" if p < 0.01 else f"p = {p:.2f}"


@pytest.mark.processes
@pytest.mark.parametrize("pair", [("model-0", "model-1"), ("model-2", "<b>bold</b>"), ("model-4", "model-5")])
def test_the_comparison_of_two_models_has_the_counts_and_the_p_value_of_the_exact_mcnemar_test(section, table, pair):
    models = sorted((row for row in table.models if row.name in pair), key=lambda row: row.id)
    for row in models:
        section.locator(f"tr[data-model='{row.id}'] .compare").check()
    section.locator(".comparison table").first.wait_for()
    assert section.locator(".compare:not(:disabled)").count() == 2
    first, second = ([t.outcomes for t in row.threats] for row in models)
    pairs = {threat: (first[place], second[place]) for place, threat in enumerate(NAMES)}
    pairs["union"] = union(*first), union(*second)
    for name, (one, other) in pairs.items():
        decided = [pair for pair in zip(one, other, strict=True) if "O" not in pair]
        gained, lost = sum(a == "S" != b for a, b in decided), sum(b == "S" != a for a, b in decided)
        line = section.locator(".comparison tbody tr", has=section.page.get_by_role("rowheader", name=name, exact=True))
        cells = line.locator("td").all_inner_texts()
        assert [int(text) for text in cells[:2]] == [gained, lost]
        assert int(cells[4]) == len(one) - len(decided)
        assert cells[5] == shown_p(mcnemar(gained, lost))
    sentence = section.locator(".comparison p").first.inner_text()
    assert all(row.name in sentence for row in models)
    assert shown_p(mcnemar(gained, lost)) in sentence


@pytest.mark.processes
def test_the_comparison_follows_the_ticked_threats(page, section, table):
    for row in table.models[:2]:
        section.locator(f"tr[data-model='{row.id}'] .compare").check()
    section.locator(".comparison tbody tr").nth(len(NAMES)).wait_for()
    for box in section.locator(".tick").all()[1:]:
        box.uncheck()
    page.wait_for_function("document.querySelectorAll('.comparison tbody tr').length === 2")
    assert "linf:0.3: " in section.locator(".comparison p").first.inner_text()
    section.locator(".compare:checked").first.uncheck()
    assert section.locator(".comparison table").count() == 0
    assert section.locator(".compare:disabled").count() == 0


@pytest.mark.processes
def test_heads_sort_by_keyboard(section, page):
    section.locator("thead button", has_text="model").focus()
    page.keyboard.press("Enter")
    assert names(section) == sorted(names(section))
    page.keyboard.press("Space")
    assert names(section) == sorted(names(section), reverse=True)
    assert section.locator("th[aria-sort='descending']").all_inner_texts() == ["model"]


@pytest.mark.processes
def test_choices_that_the_browser_restores_are_applied(page, section, table):
    """After a visit of another page, chromium restores boxes and texts without any event."""
    section.locator(".tick").first.uncheck()
    section.locator(".filter").fill("model-1")
    section.locator("tbody th a:visible").click()
    page.locator("h1").wait_for()
    page.go_back()
    section.locator("thead button").first.wait_for()
    chosen = [int(box.get_attribute("value")) for box in section.locator(".tick:checked").all()]
    wanted = {row.id: recompute(row.patterns, chosen).union for row in table.models}
    assert values(section, "union") == wanted


@pytest.mark.processes
def test_the_page_of_a_model_is_reached_by_its_name(section, page):
    section.locator("tbody th a", has_text="bold").click()
    assert page.locator("h1").inner_text().startswith("<b>bold</b>")
