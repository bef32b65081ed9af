"""The page of many models: its size and heap. `benchmarks/leaderboard_scale.py` measures times as well."""

import runpy
from pathlib import Path

import pytest

from robench.leaderboard.site import site

from .browser import opened, require_browser, write

pytestmark = pytest.mark.processes

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "leaderboard_scale.py"


@pytest.fixture(scope="module")
def benchmark():
    require_browser()
    return runpy.run_path(str(BENCHMARK))


@pytest.mark.parametrize("kind", ["realistic", "worst"])
def test_sixty_models_take_little_heap_and_little_to_load(benchmark, browser, tmp_path, kind):
    content = benchmark["made_board"](60, 500, kind)
    files = site([content])
    found = benchmark["measure"](browser, f"{write(files, tmp_path)}/{content.id}.html")
    assert 1 < found["heap MB"] + found["array buffers MB"] < 15
    assert len(files[f"{content.id}.html"]) < 60 * 4000
    assert len(files[f"data/{content.id}.js"]) < 60 * 6000, "counts of sets of threats, not of patterns"


def test_a_hundred_rows_are_shown_until_all_are_wanted(benchmark, browser, tmp_path):
    content = benchmark["made_board"](130, 20, "realistic")
    rows = ".main tbody tr[data-model]"
    with opened(browser, write(site([content]), tmp_path), f"{content.id}.html") as page:
        assert page.locator(f"{rows}:visible").count() == 100
        page.locator("thead button", has_text="model").click()
        assert page.locator(f"{rows}:visible th").first.inner_text() == "model-000"
        assert page.locator(f"{rows}:visible th").last.inner_text() == "model-099"
        page.locator(".filter").fill("model-1")
        assert page.locator(f"{rows}:visible").count() == 30
        page.locator(".filter").fill("")
        page.get_by_role("button", name="Show all 130 models").click()
        assert page.locator(f"{rows}:visible").count() == 130
        assert page.locator("button", has_text="Show all").count() == 0
    with opened(browser, tmp_path.as_uri(), f"{content.id}.html", java_script_enabled=False) as page:
        assert page.locator(f"{rows}:visible").count() == 130
    with opened(browser, tmp_path.as_uri(), f"{content.id}.html") as page:
        page.emulate_media(media="print")
        assert page.locator(f"{rows}:visible").count() == 130


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["realistic", "worst"])
def test_five_hundred_models_with_ten_thousand_examples_stay_below_sixty_megabytes_of_heap(benchmark, kind):
    found = benchmark["measure_kind"](kind, 500, 10_000, 1)
    assert found["heap MB"] + found["array buffers MB"] < benchmark["TARGETS"]["heap MB"]
