"""The real page in Debian's chromium, opened from a file.

It needs chromium and the playwright package, which the project does not install: CONTRIBUTING.md says how to get them.
"""

import shutil
from itertools import combinations

import numpy as np
import pytest

from robench.leaderboard.patterns import recompute
from robench.leaderboard.site import site

from .made import NAMES, board, recorded

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need the playwright package")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser tests need chromium")


def made_rows(seed, n=97):
    random = np.random.default_rng(seed)
    letters = random.choice(list("SBO"), p=random.dirichlet([3, 3, 0.3]), size=(len(NAMES), n))
    letters[:, random.random(n) < 0.1] = "W"
    return ["".join(row) for row in letters]


@pytest.fixture(scope="module")
def content():
    runs = [recorded(made_rows(seed), name=f"model-{seed}") for seed in range(6)]
    runs.append(recorded(["S" * 97] * len(NAMES), name="<b>bold</b>"))
    return board(*runs)


@pytest.fixture(scope="module")
def address(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    for name, data in site([content]).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder.as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    """The page of the data set. It fails on any console message, error, or request that leaves the folder."""
    opened = browser.new_page()
    faults = []
    opened.on("console", lambda message: faults.append(message.text))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda r: r.url.startswith((address, "data:")) or faults.append(r.url))
    opened.goto(f"{address}/mnist-test.html")
    yield opened
    opened.close()
    assert faults == []


def texts(page, column):
    return {
        row.get_attribute("data-model"): float(row.locator(f".{column}").first.get_attribute("data-value"))
        for row in page.locator(".board tbody tr[data-model]").all()
    }


def names(page):
    return page.locator("tbody th.name:visible").all_inner_texts()


def test_ticked_threats_recompute_union_and_average_to_the_last_digit(page, content):
    (table,) = content.tables
    boxes = page.locator(".tick")
    for chosen in [c for size in (1, 2, 3, 4) for c in combinations(range(4), size)]:
        for place in range(4):
            boxes.nth(place).set_checked(place in chosen)
        unions, averages = texts(page, "union"), texts(page, "average")
        for row in table.models:
            wanted = recompute(row.patterns, chosen)
            assert (unions[row.id], averages[row.id]) == (wanted.union, wanted.average)


def test_without_a_threat_nothing_is_shown_and_marks_return_with_all(page):
    marked = page.locator("td.union strong").count()
    assert marked > 0
    for box in page.locator(".tick").all():
        box.uncheck()
    assert set(page.locator("td.union").all_inner_texts()) == {"–"}
    for box in page.locator(".tick").all():
        box.check()
    assert page.locator("td.union strong").count() == marked


def test_heads_sort_by_keyboard_and_say_so(page):
    page.locator("thead button", has_text="model").focus()
    page.keyboard.press("Enter")
    assert names(page) == sorted(names(page))
    page.keyboard.press("Space")
    assert names(page) == sorted(names(page), reverse=True)
    assert page.locator("th[aria-sort]").all_inner_texts() == ["model"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.locator("thead button", has_text="clean").click()
    values = list(texts(page, "clean").values())
    assert values == sorted(values, reverse=True)


def test_the_filter_hides_other_models(page):
    page.locator(".filter").fill("MODEL-3")
    assert names(page) == ["model-3"]
    page.locator(".filter").fill("")
    assert len(names(page)) == 7


def test_two_ticked_models_are_compared_in_one_sentence(page, content):
    (table,) = content.tables
    one, other = (next(row for row in table.models if row.name == name) for name in ("model-0", "model-1"))
    for row in (one, other):
        page.locator(f"tr[data-model='{row.id}'] .compare").check()
    page.locator(".comparison p", has_text="model-0 and model-1, union: ").wait_for()
    assert page.locator(".compare:not(:disabled)").count() == 2
    for box in page.locator(".tick").all()[1:]:
        box.uncheck()
    first, second = one.threats[0].outcomes, other.threats[0].outcomes
    decided = [pair for pair in zip(first, second, strict=True) if "O" not in pair]
    wanted = [sum(a == "S" != b for a, b in decided), sum(b == "S" != a for a, b in decided)]
    page.wait_for_function("document.querySelectorAll('.comparison tbody tr').length === 2")
    cells = page.locator(".comparison tbody tr").last.locator("td").all_inner_texts()
    assert [int(text) for text in cells[:2]] == wanted
    assert "linf:0.3: " in page.locator(".comparison p").first.inner_text()


def test_a_narrow_screen_does_not_scroll_sideways(page):
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_page_of_a_model_is_reached_by_its_name(page):
    page.locator("tbody th a", has_text="bold").click()
    assert page.locator("h1").inner_text() == "<b>bold</b>"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
