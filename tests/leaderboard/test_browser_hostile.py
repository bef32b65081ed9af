"""Pages of hostile runs run nothing and keep their layout; no page sends a request that leaves the folder."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import robench
from robench.leaderboard.entries import CardFacts
from robench.leaderboard.site import Extras, site

from .browser import PHONE, WIDE, opened, write
from .conftest import made_rows
from .full import full_board, full_images
from .made import NAMES, board, recorded

pytestmark = pytest.mark.processes

ROOT = Path(robench.__file__).parents[1]
TEXTS = (
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror=\"window.ran = 2\">' onfocus='window.ran = 3' autofocus='",
    '"><svg onload="window.ran = 4"><style>body { display: none }</style>',
    "</title></head><base href='https://elsewhere.invalid/'><meta http-equiv='refresh' content='0; url=//x.invalid'>",
    "javascript:window.ran = 5 ${window.ran = 6} {{ 7 * 6 }} \\u003cscript> <!-- --> ]]> `",
    "שלום עולם مرحبا",
    "long" * 200,
)
FITS = "(width) => innerWidth === width && document.documentElement.scrollWidth <= width"
MARKS = "\u202eevil\u2066\u200f"  # right-to-left marks: the names of runs cannot hold them, the notes of a card can


@pytest.fixture(scope="module")
def hostile():
    """A data set in which every text of runs and cards is hostile, and one harmless model."""
    runs = [
        recorded(
            made_rows(seed, 40), name=text, data=TEXTS[0], protocol=text,
            card=CardFacts(text, (text,), 1.0, text, text + MARKS, ()),
            environment={"command": text, "note x": text, "randomness": text},
        )
        for seed, text in enumerate(TEXTS)
    ]  # fmt: skip
    return board(*runs, recorded(made_rows(9, 40), name="harmless", data=TEXTS[0]))


@pytest.fixture(scope="module")
def hostile_site(hostile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return write(site([hostile]), folder), sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.html"))


def test_hostile_texts_run_nothing_on_any_page(browser, hostile_site):
    address, paths = hostile_site
    for path in paths:
        with opened(browser, address, path) as page:
            assert page.evaluate("window.ran") is None
            assert page.evaluate("document.baseURI") == f"{address}/{path}"
            assert page.locator("h1").is_visible()
            foreign = (
                "[onerror], [onload], [onfocus], [autofocus], svg[onload], base, meta[http-equiv=refresh], body style"
            )
            assert page.locator(foreign).count() == 0


def test_hostile_texts_in_every_field_run_nothing(browser, tmp_path):
    text = " ".join(TEXTS)
    content = msgspec.structs.replace(full_board((text, "harmless"), text), data=text)
    address = write(site([content], Extras(full_images(content))), tmp_path)
    for path in sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.html")):
        with opened(browser, address, path, viewport=PHONE) as page:
            assert page.locator("h1").is_visible()
            assert page.evaluate("window.ran") is None
            page.wait_for_function(FITS, arg=PHONE["width"])
            if path == f"{content.id}.html":
                for box in page.locator(".compare").all():
                    box.check()
                page.locator(".slide").first.fill("3")
                page.locator(".comparison figure").first.wait_for()
                assert page.evaluate("window.ran") is None


def test_hostile_names_are_shown_as_they_are_and_can_be_compared(browser, hostile_site, hostile):
    address, _ = hostile_site
    with opened(browser, address, f"{hostile.id}.html") as page:
        names = page.locator("tbody th.name").evaluate_all("heads => heads.map((head) => head.dataset.value)")
        assert sorted(names) == sorted([*TEXTS, "harmless"])
        for text in TEXTS:
            chosen = [row.id for row in hostile.tables[0].models if row.name in (text, "harmless")]
            for model in chosen:
                page.locator(f"tr[data-model='{model}'] .compare").check()
            page.locator(".comparison p", has_text=text).first.wait_for()
            for model in chosen:
                page.locator(f"tr[data-model='{model}'] .compare").uncheck()
        assert page.evaluate("window.ran") is None


def test_hostile_names_keep_the_layout(browser, hostile_site, hostile):
    address, paths = hostile_site
    for path in paths:
        with opened(browser, address, path) as page:
            for size in (WIDE, PHONE):
                page.set_viewport_size(size)
                page.wait_for_function(FITS, arg=size["width"])  # plots are drawn again
                if path == f"{hostile.id}.html":
                    name = page.locator("tbody th.name", has_text="harmless")
                    assert name.bounding_box()["width"] < size["width"] / 2, "a long name must leave room for numbers"


def test_hostile_threats_run_nothing(browser, content, tmp_path):
    """No run file has such a threat, since threats are parsed; the pages do not rely on that."""
    (table, *_) = content.tables
    models = [
        msgspec.structs.replace(
            row,
            threats=tuple(msgspec.structs.replace(t, threat=h) for t, h in zip(row.threats, TEXTS, strict=False)),
        )
        for row in table.models
    ]
    changed = msgspec.structs.replace(table, threats=TEXTS[: len(NAMES)], models=tuple(models))
    address = write(site([msgspec.structs.replace(content, tables=(changed,))]), tmp_path)
    with opened(browser, address, "mnist-test.html") as page:
        page.locator(".tick").first.uncheck()
        for box in page.locator(".compare").all()[:2]:
            box.check()
        page.locator(".comparison table").first.wait_for()
        assert TEXTS[1] in page.locator(".chosen").inner_text()
        assert page.evaluate("window.ran") is None


def test_the_policy_of_a_page_blocks_scripts_in_the_page_and_other_hosts(browser, made_site):
    blocked = ("Content Security Policy", "ERR_", "elsewhere.invalid", "failed:")
    for path in ("index.html", "mnist-test.html"):
        with opened(browser, made_site.address, path, allowed=blocked) as page:
            page.evaluate(
                """() => {
                    window.violations = [];
                    addEventListener("securitypolicyviolation", (e) => window.violations.push(e.effectiveDirective));
                    const script = document.createElement("script");
                    script.textContent = "window.ran = 1";
                    document.body.append(script);
                    document.body.insertAdjacentHTML("beforeend", "<button id='x' onclick='window.ran = 2'>x</button>");
                    document.querySelector("#x").click();
                    document.body.append(Object.assign(new Image(), { src: "https://elsewhere.invalid/x.png" }));
                    const frame = document.createElement("iframe");
                    frame.src = "https://elsewhere.invalid/";
                    document.body.append(frame);
                    fetch("https://elsewhere.invalid/").catch(() => {});
                }"""
            )
            page.wait_for_function("window.violations.length >= 5")
            kinds = set(page.evaluate("window.violations"))
            assert {"script-src-elem", "script-src-attr", "img-src", "frame-src", "connect-src"} <= kinds
            assert page.evaluate("window.ran") is None


def test_no_page_of_the_site_has_a_message_an_error_or_a_request_that_leaves_it(browser, made_site):
    for path in sorted(made_site.folder.rglob("*.html")):
        with opened(browser, made_site.address, path.relative_to(made_site.folder).as_posix()) as page:
            page.evaluate("scrollTo(0, document.body.scrollHeight)")  # images may load when they come into view


def test_a_served_site_works_as_one_that_is_opened_from_a_file(browser, tmp_path):
    runs = [ROOT / "reports" / "runs" / f"digits-{name}.robench" for name in ("nat", "adv-linf")]
    words = [sys.executable, "-m", "robench", "leaderboard", *map(str, runs)]
    words += ["--out", str(tmp_path / "site"), "--serve", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        try:
            address = next(
                found[1] for line in running.stdout if (found := re.match(r"(http://127\.0\.0\.1:\d+)/", line))
            )
            with opened(browser, address, "index.html") as page:
                with page.expect_navigation():  # a click alone does not wait for the page behind the link
                    page.locator("main h2 a").first.click()
                for box in page.locator(".compare").all()[:2]:
                    box.check()
                page.locator(".comparison table").first.wait_for()
                with page.expect_navigation():
                    page.locator("tbody th.name a").first.click()
                assert page.locator("h1").inner_text().startswith("digits-")
        finally:
            running.terminate()
