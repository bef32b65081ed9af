"""Builds the documentation's site from docs/ with Zensical, strictly, and checks what was built.

    python scripts/website.py           # build/website/site
    python scripts/website.py --serve   # then show it on this machine, until Ctrl-C

Needs the extra `docs`; nothing of robench is imported. Pages of docs/ link to reports, benchmark results and code of
the repository, which lie outside the site's folder. So that the site stands by itself, docs/ is copied to
build/website, and what it links to becomes pages under repository/ there.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
STAGE = ROOT / "build" / "website"
SITE = STAGE / "site"

ALWAYS = ("CHANGELOG.md", "CONTRIBUTING.md", "reports/README.md", "reports/NOTES.md")
"""Pages outside docs/ that the navigation names."""

PICTURES = {".svg", ".png"}
LINK = re.compile(r"(!?\[(?:[^\]\[]|\[[^\]]*\])*\])\(([^)\s]+)\)")
CODE = re.compile(r"<code\b.*?</code>", re.S)
OPTION = re.compile(r"(?<![\w\"'=-])--[a-z][a-z-]*(?![^<]*>)")
FENCE = re.compile(r"^(`{3,}.*?^`{3,})$", re.M | re.S)


class Stage:
    """A copy of docs/ in which every link leads to a file of the copy."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root, folder
        self._waiting: list[str] = []
        self._placed: set[str] = set()

    def fill(self) -> None:
        """Copies docs/, then every file outside it that a page links to, and the pages that those link to."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.root / "docs", self.folder)
        for page in sorted((self.root / "docs").rglob("*.md")):
            self._write(page.relative_to(self.root).as_posix())
        for path in ALWAYS:
            self._place(path)
        while self._waiting:
            self._write(self._waiting.pop())

    def _place(self, path: str) -> str:
        """Where a file of the repository lies in the copy; what is not there yet will be."""
        if path.startswith("docs/"):
            return path.removeprefix("docs/")
        if path not in self._placed:
            self._placed.add(path)
            self._waiting.append(path)
        if Path(path).suffix not in {".md", *PICTURES}:
            path += ".md"
        # Zensical takes a README for the page of its whole section.
        return f"repository/{path}".replace("README.md", "overview.md")

    def _write(self, path: str) -> None:
        source, target = self.root / path, self.folder / self._place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in PICTURES:
            shutil.copy(source, target)
        elif source.suffix == ".md":
            text = "".join(
                part if part.startswith("```") else LINK.sub(lambda link: self._link(path, link), part)
                for part in FENCE.split(source.read_text())
            )
            target.write_text(text if path.startswith("docs/") else _aside(path, text))
        else:
            target.write_text(_aside(path, f"# {path}\n\n````{source.suffix[1:]}\n{source.read_text()}````\n"))

    def _link(self, path: str, link: re.Match[str]) -> str:
        """A link of the page `path` as it is written in the copy."""
        text, address = link.groups()
        if urlsplit(address).scheme or address.startswith("#"):
            return link[0]
        name, mark, anchor = address.partition("#")
        wanted = os.path.normpath(os.path.join(os.path.dirname(path), name))
        if (self.root / wanted).is_dir():
            wanted += "/README.md"
        known = Path(wanted).suffix in {".md", *PICTURES} and wanted != "README.md"
        if not (self.root / wanted).is_file() or not (known or path.startswith("docs/")):
            return text[1:-1]  # no page of the site: the text alone; tests/test_docs.py checks that the file exists
        here = os.path.dirname(self._place(path))
        return f"{text}({os.path.relpath(self._place(wanted), here or '.')}{mark}{anchor})"


def _aside(path: str, text: str) -> str:
    """A page from outside docs/: it has a title, and the search passes over it."""
    title = re.search(r"^# (.+)$", text, re.M)
    name = title[1].replace("`", "") if title else Path(path).stem
    return f"---\ntitle: {name!r}\nsearch:\n  exclude: true\n---\n\n{text}"


class Page(HTMLParser):
    """What an HTML page links to, what it loads, and the places in it that a link can name."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.ids |= {given[key] for key in ("id", "name") if key in given and tag != "meta"}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and not {"canonical", "next", "prev"} & set(given.get("rel", "").split()):
            self.loads.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])


def faults(site: Path) -> Iterator[str]:
    """Links of the built site that lead nowhere, and whatever a page loads from another host."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        here = path.relative_to(site)
        for target in page.loads + page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.loads and parts.scheme != "data":
                    yield f"{here} loads {target}"
                continue
            if parts.path.startswith("/"):
                place = site / unquote(parts.path).lstrip("/")
            else:
                place = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            place = place / "index.html" if place.is_dir() else place
            if not place.is_file():
                yield f"{here} links to {target}, which does not exist"
            elif parts.fragment and place in pages and unquote(parts.fragment) not in pages[place].ids:
                yield f"{here} links to {target}, which has no such heading"
    for path in sorted(site.rglob("*.css")):
        for target in re.findall(r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')\s]+)", path.read_text()):
            yield f"{path.relative_to(site)} loads {target}"


def keep_options_whole(site: Path) -> None:
    """Marks options of commands in code, so that no line breaks after their hyphens."""
    for path in site.rglob("*.html"):
        text = path.read_text()
        path.write_text(CODE.sub(lambda code: OPTION.sub(r'<span class="whole">\g<0></span>', code[0]), text))


def build() -> None:
    """Builds the site into build/website/site; ends with code 1 where Zensical warns or a check fails."""
    Stage(ROOT, STAGE / "docs").fill()
    config = shutil.copy(ROOT / "zensical.toml", STAGE)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", config]
    done = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"})
    if done.returncode:
        sys.exit(1)
    keep_options_whole(SITE)
    found = list(faults(SITE))
    print(*found, sep="\n", end="\n" if found else "")
    if found:
        sys.exit(1)
    print(f"{len(list(SITE.rglob('*.html')))} pages in {SITE.relative_to(ROOT)}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Builds the documentation's site, strictly.")
    parser.add_argument("--serve", action="store_true", help="then show it on this machine, until Ctrl-C")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    build()
    if given.serve:
        print(f"http://localhost:{given.port}/")
        serve = [sys.executable, "-m", "http.server", "--bind", "localhost", "--directory", SITE, str(given.port)]
        subprocess.run(serve, check=False)


if __name__ == "__main__":
    main()
