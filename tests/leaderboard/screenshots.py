"""Photographs of the pages, to be looked at before a change to a page is handed in.

    python -m tests.leaderboard.screenshots OUT [RUN|FOLDER...]

Builds the site of `reports/runs`, or of the named runs, and writes PNG files to the folder OUT: every kind of page, and
a page with two threats ticked off and two models compared; wide, on a phone, dark, and as printed.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from robench.cli.main import robench as robench_command

from .browser import PHONE, WIDE, chromium, opened

ROOT = Path(__file__).parents[2]
LOOKS = {
    "wide": {"viewport": WIDE},
    "phone": {"viewport": PHONE, "device_scale_factor": 2, "is_mobile": True},
    "dark": {"viewport": WIDE, "color_scheme": "dark"},
    "print": {"viewport": {"width": 1040, "height": 720}},  # A4 on its side
}


def photograph(folder: Path, out: Path) -> list[Path]:
    """The pictures of a built site: a file per kind of page and look."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    with chromium() as browser:
        for kind, (path, prepare) in views(folder).items():
            for look, context in LOOKS.items():
                with opened(browser, folder.resolve().as_uri(), path, **context) as page:
                    if prepare:
                        choose_and_compare(page)
                    if look == "print":
                        page.emulate_media(media="print")
                    made.append(out / f"{kind}-{look}.png")
                    page.screenshot(path=made[-1], full_page=True)
    return made


def views(folder: Path) -> dict[str, tuple[str, bool]]:
    """The path of each kind of page, and whether threats are chosen and models compared on it."""
    boards = [path.stem for path in sorted((folder / "data").glob("*.json"))]
    named = max(boards, key=lambda name: len(list((folder / "models" / name).glob("*.html"))))
    models = sorted((folder / "models" / named).glob("*.html"), key=lambda path: (-path.stat().st_size, path.name))
    return {
        "index": ("index.html", False),
        "board": (f"{named}.html", False),
        "chosen": (f"{named}.html", True),
        "model": (models[0].relative_to(folder).as_posix(), False),
        "history": (f"history/{named}.html", False),
    }


def choose_and_compare(page: Any) -> None:
    """Ticks two threats off and compares two models in the first table, and halves the first radius that moves."""
    section = page.locator("[data-table]").first
    for box in section.locator(".tick").all()[1:3]:
        box.uncheck()
    for box in section.locator(".compare").all()[1:4:2]:
        box.check()
    section.locator(".comparison table").first.wait_for()
    for slide in page.locator(".slide:enabled").all()[:1]:
        slide.fill("10")
        page.locator(".chosen", has_text=" are over ").last.wait_for()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="*", default=[str(ROOT / "reports" / "runs")])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = ["leaderboard", *args.runs, "--out", folder]
        if robench_command.main(words, standalone_mode=False):
            sys.exit(1)
        for path in photograph(Path(folder), args.out):
            print(path)


if __name__ == "__main__":
    main()
