"""Every page, for every reader: screen readers, keyboard, phone, dark, paper, and without JavaScript."""

from pathlib import Path

import pytest

from .browser import PHONE, WIDE, opened

pytestmark = pytest.mark.processes

PAGES = ("index", "board", "model", "history")


@pytest.fixture(scope="module")
def paths(made_site, table):
    """One page of each kind, by kind."""
    known = {
        "index": "index.html",
        "board": "mnist-test.html",
        "model": f"models/mnist-test/{table.models[0].id}.html",
        "history": "history/mnist-test.html",
    }
    found = {path.relative_to(made_site.folder) for path in made_site.folder.rglob("*.html")}
    assert {path.parts[:-1] for path in found} == {Path(path).parts[:-1] for path in known.values()}
    return known


@pytest.fixture(params=PAGES)
def kind(request, paths):
    """The path of a page of each kind."""
    return paths[request.param]


def findings(page):
    """What axe-core finds. It must not load the style sheet again, which a page that is opened from a file cannot."""
    from axe_playwright_python.sync_playwright import Axe

    return Axe().run(page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_finding(browser, made_site, kind, size, scheme):
    with opened(browser, made_site.address, kind, viewport=size, color_scheme=scheme) as page:
        if kind == "mnist-test.html":  # with all that a reader can open
            for box in page.locator(".compare").all()[:2]:
                box.check()
            page.locator(".comparison table").first.wait_for()
            page.locator(".tick").first.uncheck()
        found = findings(page)
    serious = [f for f in found if f["impact"] in ("serious", "critical")]
    assert [(f["id"], [node["html"][:200] for node in f["nodes"]]) for f in serious] == []


def test_axe_finds_what_is_wrong(browser, made_site):
    with opened(browser, made_site.address, "index.html") as page:
        page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<input style=\"color: #eee\">')")
        assert "label" in {f["id"] for f in findings(page)}


CONTROLS = """
() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")]
  .filter((e) => !e.disabled && e.tabIndex >= 0 && e.checkVisibility())
  .map((e, place) => { e.dataset.control = place; return place; })
"""

FOCUSED = """
() => {
  const e = document.activeElement;
  const style = getComputedStyle(e);
  const box = e.getBoundingClientRect();
  const drawn = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  const inside = box.right > 0 && box.bottom > 0 && box.left < innerWidth && box.top < innerHeight;
  return [e.dataset.control ?? null, drawn && inside, e.outerHTML.slice(0, 120)];
}
"""


def test_tab_reaches_every_control_with_a_visible_focus_and_goes_on(browser, made_site, kind):
    with opened(browser, made_site.address, kind) as page:
        wanted = page.evaluate(CONTROLS)
        reached, hidden = [], []
        for _ in range(len(wanted)):
            page.keyboard.press("Tab")
            control, visible, html = page.evaluate(FOCUSED)
            reached.append(int(control))
            hidden += [] if visible else [html]
        assert sorted(reached) == wanted
        assert hidden == []
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || document.activeElement.tabIndex >= 0")


def test_space_ticks_a_threat_and_two_models_without_a_mouse(browser, made_site):
    with opened(browser, made_site.address, "mnist-test.html") as page:
        before = page.locator("td.union").all_inner_texts()
        for selector in (".tick", ".compare"):
            for place in (0, 1):
                box = page.locator(selector).nth(place)
                for _ in range(200):
                    page.keyboard.press("Tab")
                    if box.evaluate("box => box === document.activeElement"):
                        break
                page.keyboard.press("Space")
                assert box.is_checked() == (selector == ".compare")
        assert page.locator("td.union").all_inner_texts() != before
        page.locator(".comparison table").first.wait_for()
        silent = page.locator(".comparison [aria-live=off]").first
        assert silent.locator("table").count() == 1
        assert page.locator(".comparison > p").count() >= 1, "the sentences alone are announced"


def test_the_first_control_skips_to_the_content(browser, made_site, kind):
    with opened(browser, made_site.address, kind) as page:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**#content")


@pytest.mark.parametrize("width", [390, 320, 1400])
def test_no_page_is_wider_than_the_screen(browser, made_site, kind, width):
    with opened(browser, made_site.address, kind, viewport={"width": width, "height": 800}) as page:
        if kind == "mnist-test.html":
            for box in page.locator(".compare").all()[:2]:
                box.check()
            page.locator(".comparison table").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_phone_shows_the_whole_names_of_the_models(browser, made_site):
    with opened(browser, made_site.address, "mnist-test.html", viewport=PHONE) as page:
        for name in page.locator("tbody th.name a").all():
            box = name.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= PHONE["width"]


def test_all_numbers_are_there_without_javascript(browser, made_site, content, paths):
    with opened(browser, made_site.address, "mnist-test.html", java_script_enabled=False) as page:
        for table in content.tables:
            section = page.locator(f"[data-table='{table.id}']")
            rows = section.locator("tbody tr[data-model]").all()
            assert [row.get_attribute("data-model") for row in rows] == [model.id for model in table.models]
            for row, model in zip(rows, table.models, strict=True):
                text = row.inner_text()
                assert model.name in text
                for share in (model.clean, model.union, model.average, *(t.share for t in model.threats)):
                    assert f"{100 * share.accuracy:.1f}" in text
            assert section.locator(".controls").is_hidden()
        assert page.locator("noscript").first.is_visible()
    for path in paths.values():
        with opened(browser, made_site.address, path, java_script_enabled=False) as page:
            assert page.locator("h1").is_visible()
            assert page.locator("table").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_has_every_row_in_black_on_white_and_no_controls(browser, made_site, table, scheme):
    with opened(browser, made_site.address, "mnist-test.html", color_scheme=scheme) as page:
        page.emulate_media(media="print")
        assert page.locator(".controls").first.is_hidden()
        assert page.locator(f"[data-table='{table.id}'] tbody tr[data-model]:visible").count() == len(table.models)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        clipped = "[...document.querySelectorAll('.scroll')].filter((e) => getComputedStyle(e).overflowX !== 'visible')"
        assert page.evaluate(f"{clipped}.length") == 0
        assert page.pdf(format="A4", landscape=True).startswith(b"%PDF")
