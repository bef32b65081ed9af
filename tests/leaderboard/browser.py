"""Debian's chromium, and pages that report every fault.

The tests are skipped where chromium or the playwright package is missing, and fail there if ROBENCH_REQUIRE_BROWSER is
set, as in CI.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REQUIRE = "ROBENCH_REQUIRE_BROWSER"
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


def missing() -> str:
    """What the tests need and this machine lacks; empty if nothing."""
    if importlib.util.find_spec("playwright") is None:
        return "the tests in a browser need the playwright package: pip install -c constraints.txt -e '.[test]'"
    if shutil.which("chromium") is None:
        return "the tests in a browser need Debian's chromium: apt-get install chromium"
    return ""


def require_browser() -> None:
    """Skips the test where there is no browser; fails it if ROBENCH_REQUIRE_BROWSER is set."""
    if reason := missing():
        (pytest.fail if os.environ.get(REQUIRE) else pytest.skip)(reason)


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        started = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def opened(browser: Any, site: str, path: str, allowed: Iterable[str] = (), **context: Any) -> Iterator[Any]:
    """A page of a site in a context of its own.

    Fails at the end on any message of the console, error of a script, dialog, refused request, and request
    that leaves the site. `allowed` are parts of messages that a test provokes.
    """
    faults: list[str] = []
    fresh = browser.new_context(**{"viewport": WIDE, **context})
    fresh.set_default_timeout(15_000)
    page = fresh.new_page()
    page.on("console", lambda message: faults.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    page.on("response", lambda answer: answer.status < 400 or faults.append(f"answer {answer.status}: {answer.url}"))
    fresh.on("request", lambda r: r.url.startswith((f"{site}/", "data:")) or faults.append(f"request: {r.url}"))
    fresh.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    try:
        page.goto(f"{site}/{path}")
        yield page
    finally:
        fresh.close()
    left = [fault for fault in faults if not any(part in fault for part in allowed)]
    assert not left, left


def write(files: Mapping[str, bytes], folder: Path) -> str:
    """Writes a site, and returns the address of its folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder.as_uri()
