"""The site of the documentation: what is copied for it, its navigation, and the check of what was built.

`.ci/run` builds it with Zensical, which the tests do not need.
"""

import re
from pathlib import Path

import pytest

from scripts import website
from scripts.website import Stage, faults, keep_options_whole

from .test_docs import ROOT

CONFIG = (ROOT / "zensical.toml").read_text()


@pytest.fixture(scope="module")
def staged(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stage") / "docs"
    Stage(ROOT, folder).fill()
    return folder


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_every_page_of_docs_is_in_the_navigation_and_every_entry_exists(staged):
    named = re.findall(r'"([\w/.-]+\.md)"', CONFIG)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(named) == len(set(named))
    assert {name for name in named if not name.startswith("repository/")} == pages
    assert all((staged / name).is_file() for name in named)


def test_links_of_the_copy_lead_to_files_of_the_copy(staged):
    checked = 0
    for page in staged.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in link and not re.match(r"(mailto|https?):", link):
                assert (page.parent / link).is_file(), (page, link)
                checked += 1
    assert checked > 200


def test_the_site_requests_no_fonts_and_no_diagrams_from_another_host(staged):
    assert re.search(r"^font = false\b", CONFIG, re.M)
    # The theme fetches a script of these from another host when a page has one, which no check of the HTML sees.
    assert not any(re.search(r"^```+\s*(mermaid|pyodide)", page.read_text(), re.M) for page in staged.rglob("*.md"))


def test_pages_outside_docs_are_copied_with_their_links_and_stay_out_of_the_search(tmp_path):
    root = written(
        tmp_path / "root",
        {
            "docs/index.md": "# A\n\n[b](how/b.md) [r](../reports/r.md#x) [c](../code.py) [d](../folder)\n",
            "docs/how/b.md": "# B\n\n![p](../../reports/p.svg)\n\n```text\n[kept](../../as/it.is)\n```\n",
            "reports/r.md": "# The `r`\n\n[a](../docs/index.md) [gone](../runs/x.robench)\n"
            "[other](other.md)\n[s](sub/README.md)\n",
            "reports/p.svg": "<svg/>",
            "reports/sub/README.md": "# S\n",
            "reports/other.md": "no heading\n",
            "code.py": "x = 1\n",
            "folder/x": "",
        }
        | {name: "# T\n" for name in website.ALWAYS if not name.startswith("reports/r")},
    )
    Stage(root, tmp_path / "stage").fill()
    read = {p.relative_to(tmp_path / "stage").as_posix(): p.read_text() for p in (tmp_path / "stage").rglob("*.*")}
    assert "[b](how/b.md) [r](repository/reports/r.md#x) [c](repository/code.py.md) d\n" in read["index.md"]
    assert "![p](../repository/reports/p.svg)" in read["how/b.md"]
    assert "[kept](../../as/it.is)" in read["how/b.md"]
    assert "[a](../../index.md) gone\n[other](other.md)\n[s](sub/overview.md)" in read["repository/reports/r.md"]
    assert read["repository/reports/r.md"].startswith("---\ntitle: 'The r'\nsearch:\n  exclude: true\n---\n")
    assert "title: 'other'" in read["repository/reports/other.md"]
    assert "````py\nx = 1\n````" in read["repository/code.py.md"]


GOOD = '<a href="b/#here">b</a> <script src="a.js"></script> <img src="data:,x"> <a href="//x.org">x</a>'


@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        ("", None),
        ('<a href="c/">c</a>', "index.html links to c/, which does not exist"),
        ('<a href="b/#gone">b</a>', "index.html links to b/#gone, which has no such heading"),
        ('<a href="#gone">b</a>', "index.html links to #gone, which has no such heading"),
        ('<script src="https://cdn.example/x.js"></script>', "index.html loads https://cdn.example/x.js"),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', "index.html loads //fonts.example/x.css"),
        ('<img src="https://img.example/x.png">', "index.html loads https://img.example/x.png"),
        ('<img src="missing.png">', "index.html links to missing.png, which does not exist"),
    ],
)
def test_a_planted_fault_of_a_built_page_is_found(tmp_path, planted, fault):
    pages = {"index.html": GOOD + planted, "b/index.html": '<h2 id="here">B</h2> <a href="../">a</a>', "a.js": ""}
    assert list(faults(written(tmp_path, pages))) == ([fault] if fault else [])


def test_a_font_from_another_host_in_a_style_sheet_is_found(tmp_path):
    written(tmp_path, {"s.css": "b { background: url(a.png) } i { src: url('https://fonts.example/a.woff2') }"})
    assert list(faults(tmp_path)) == ["s.css loads https://fonts.example/a.woff2"]


def test_options_in_code_stay_whole_and_nothing_else_changes(tmp_path):
    before = (
        '<p title="--x">a --data b</p><code id="--y">robench <span class="--z">--data</span> x--y --max-drop=1</code>'
    )
    written(tmp_path, {"index.html": before})
    keep_options_whole(tmp_path)
    after = (tmp_path / "index.html").read_text()
    whole = '<span class="whole">{}</span>'
    assert after == before.replace(">--data<", f">{whole.format('--data')}<").replace(
        " --max-drop=", f" {whole.format('--max-drop')}="
    )


def test_ci_builds_the_site():
    assert "nox --no-venv -s docs\n" in (ROOT / ".ci" / "run").read_text()
    assert '"scripts/website.py"' in (ROOT / "noxfile.py").read_text()
