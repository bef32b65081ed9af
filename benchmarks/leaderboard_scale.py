"""The leaderboard's page with 500 models, 10,000 examples and 8 threats, in chromium.

    python benchmarks/leaderboard_scale.py [--models N] [--examples N] [--loads N] [--profile FILE]

The models are made up. Two kinds of outcomes are measured:

realistic
    Examples differ in difficulty. Given it, the outcomes under the threats are independent.
worst
    Each outcome is random, open ones included, so that a model has as many distinct patterns of outcomes as possible.

The time to first interaction runs from the start of navigation until a click on the head of a column, made by a
script as soon as the document is ready, has reordered the rows and the next frame is drawn. The heap is what the
browser counts after garbage collection when, after that, a threat was ticked off and on, rows were sorted by name, and
two models were compared. All are medians over several loads, each in a new context of the browser.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Browser, Page, sync_playwright
from tabulate import tabulate

from robench.evaluation.environment import environment
from robench.leaderboard.entries import SCHEMA, AttackCost, Board, CardFacts, ModelResult, Share, Table, ThreatResult
from robench.leaderboard.patterns import count_patterns
from robench.leaderboard.site import site
from robench.results.outcomes import union
from robench.results.stats import shares
from robench.results.stats.intervals import wilson

THREATS = ("linf:0.3", "linf:0.1", "l2:2", "l2:0.5", "l1:10", "l0:5", "rt:3,30", "patch:5")
KINDS = ("realistic", "worst")
WIDE = {"width": 1400, "height": 900}
TARGETS = {"first interaction s": 2.0, "tick s": 0.3, "heap MB": 60.0}

FIRST_CLICK = """
addEventListener("DOMContentLoaded", () => {
  const start = () => {
    const head = [...document.querySelectorAll(".board thead button")].find((b) => b.textContent.trim() === "clean");
    if (!head) return requestAnimationFrame(start);
    const first = () => document.querySelector(".board tbody tr").dataset.model;
    const before = first();
    head.click();
    if (first() === before) head.click();
    window.sortedFrom = [before, first()];
    requestAnimationFrame(() => requestAnimationFrame(() => { window.firstInteraction = performance.now(); }));
  };
  start();
});
"""

TIMED = """
(selector) => new Promise((resolve) => {
  const start = performance.now();
  document.querySelector(selector).click();
  const script = performance.now() - start;
  requestAnimationFrame(() => requestAnimationFrame(() => resolve([script, performance.now() - start])));
})
"""


def made_board(models: int, examples: int, kind: str, seed: int = 0) -> Board:
    """A data set with one table of made-up models, without any run."""
    random = np.random.default_rng(seed)
    difficulty = random.normal(size=examples)
    rows = [_model(f"model-{place:03}", _outcomes(random, difficulty, kind)) for place in range(models)]
    rows.sort(key=lambda row: (-row.union.accuracy, row.name))
    numbers = f"0:{examples}"
    table = Table("scale", examples, "ab" * 32, numbers, THREATS, tuple(rows))
    return Board(SCHEMA, "made", "made:test", (table,))


def _outcomes(random: np.random.Generator, difficulty: np.ndarray, kind: str) -> list[str]:
    """A string of letters per threat."""
    shape = len(THREATS), len(difficulty)
    if kind == "realistic":
        strength = random.normal(size=(len(THREATS), 1)) + random.normal()
        letters = np.where(random.logistic(size=shape) < strength - difficulty, "S", "B")
    else:
        letters = random.choice(list("SBO"), size=shape)
    letters[:, random.random(len(difficulty)) < 0.02] = "W"
    return ["".join(row) for row in letters]


def _model(name: str, outcomes: list[str]) -> ModelResult:
    joint = union(*outcomes)
    clean = 1 - joint.count("W") / len(joint)
    average = shares.mean(outcomes)
    return ModelResult(
        id=name,
        name=name,
        weights_sha256="cd" * 32,
        architecture="made(layers=4)",
        normalisation="",
        card=CardFacts("pgd_at", ("linf:0.3",), 12.5, "robench train pgd_at --threat linf:0.3"),
        protocol="made",
        other_protocols=(),
        seeds=(0,),
        commands=(f"robench evaluate {name}",),
        clean=_share(clean, wilson(round(clean * len(joint)), len(joint)), 0),
        threats=tuple(_threat(threat, row) for threat, row in zip(THREATS, outcomes, strict=True)),
        union=_share(shares.accuracy(joint), shares.interval(*map(joint.count, "SO"), len(joint)), joint.count("O")),
        average=_share(*average, sum(row.count("O") for row in outcomes)),
        protocol_union=shares.accuracy(joint),
        beyond=0,
        masking="none-found",
        backwards=10**6 + len(set(joint)),
        forwards=10**6,
        seconds=100.0,
        patterns=count_patterns(outcomes),
        notes=(),
    )


def _share(accuracy: float, interval: tuple[float, float], left: int) -> Share:
    return Share(accuracy, interval, left, 0, True, False, "")


def _threat(threat: str, row: str) -> ThreatResult:
    counts = {letter: row.count(letter) for letter in "WBSO"}
    share = _share(shares.accuracy(row), shares.interval(counts["S"], counts["O"], len(row)), counts["O"])
    cost = AttackCost("pgd", "pgd(steps=40)", len(row), counts["B"], counts["S"], 400_000, 400_000, 10.0)
    return ThreatResult(
        threat, share, counts["W"], counts["B"], counts["S"], 0, share.accuracy, "none-found", (), (cost,), row
    )


def write(files: dict[str, bytes], folder: Path) -> None:
    """Writes the files of a site."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The installed browser, without a window."""
    with sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--enable-precise-memory-info"]
        )
        yield browser
        browser.close()


def measure(browser: Browser, address: str, profile: Path | None = None) -> dict[str, float]:
    """One load of the page of a data set: seconds, and megabytes of heap."""
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    page.add_init_script(FIRST_CLICK)
    page.goto(address)
    page.wait_for_function("window.firstInteraction")
    found = {"first interaction s": page.evaluate("window.firstInteraction") / 1000}
    first, now = page.evaluate("window.sortedFrom")
    assert first != now, "a click on the head of a column reorders the rows"
    ready = page.evaluate("performance.getEntriesByName('robench-ready').map((mark) => mark.startTime)")
    if ready:
        found["ready s"] = ready[0] / 1000
    session = context.new_cdp_session(page)
    if profile:
        session.send("Profiler.enable")
        session.send("Profiler.start")
    found["tick script s"], found["tick s"] = _timed(page, ".board .tick")
    if profile:
        profile.write_text(json.dumps(session.send("Profiler.stop")["profile"]))
    found["tick again s"] = _timed(page, ".board .tick:nth-of-type(1)")[1]
    found["sort s"] = _timed(page, ".board th.name button")[1]
    for box in page.locator(".board .compare").all()[:2]:
        box.check()
    page.locator(".comparison table").wait_for()
    found |= _heap(session)
    found["heap by performance.memory MB"] = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    context.close()
    return found


def _timed(page: Page, selector: str) -> tuple[float, float]:
    """Seconds that a click takes in the script, and until the next frame is drawn."""
    script, drawn = page.evaluate(TIMED, selector)
    return script / 1000, drawn / 1000


def _heap(session: Any) -> dict[str, float]:
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = {entry["name"]: entry["value"] for entry in session.send("Performance.getMetrics")["metrics"]}
    usage = session.send("Runtime.getHeapUsage")
    return {
        "heap MB": metrics["JSHeapUsedSize"] / 1e6,
        "array buffers MB": usage.get("backingStorageSize", 0) / 1e6,
        "nodes": metrics["Nodes"],
    }


def measure_kind(kind: str, models: int, examples: int, loads: int, profile: Path | None = None) -> dict[str, float]:
    """Medians over the loads, with size and time of building."""
    board = made_board(models, examples, kind)
    start = time.perf_counter()
    files = site([board])
    built = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        write(files, folder)
        address = f"{folder.as_uri()}/{board.id}.html"
        found = [measure(browser, address, profile) for _ in range(loads)]
    numbers = {key: median(load[key] for load in found) for key in found[0]}
    largest = max(files, key=lambda file: len(files[file]))
    return {
        **numbers,
        "patterns per model": sum(len(row.patterns) for row in board.tables[0].models) / models,
        "build s": built,
        "site MB": sum(map(len, files.values())) / 1e6,
        "files": len(files),
        "page MB": len(files[f"{board.id}.html"]) / 1e6,
        "script with data MB": len(files[f"data/{board.id}.js"]) / 1e6,
        f"largest file MB ({Path(largest).suffix})": len(files[largest]) / 1e6,
    }


def report(columns: dict[str, dict[str, float]], browser: str, notes: list[str]) -> str:
    """The page with the results: a row per measure, a column per kind."""
    measures = list(dict.fromkeys(key for column in columns.values() for key in column))
    rows = [[key, *(column.get(key) for column in columns.values()), TARGETS.get(key)] for key in measures]
    table = tabulate(rows, headers=["", *columns, "at most"], tablefmt="pipe", floatfmt=".2f", missingval="")
    values = environment(torch.device("cpu"))
    machine = f"{values['device']}, {os.cpu_count()} cores, Chromium {browser}, Python {platform.python_version()}"
    head = f"# The leaderboard's page with many models\n\n{machine}; commit {values.get('commit', 'unknown')}"
    return "\n\n".join((head, table, "\n".join(notes))) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--profile", type=Path, help="a file for chromium's profile of ticking a threat off")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    columns = {
        kind: measure_kind(kind, args.models, args.examples, args.loads, args.profile) for kind in args.kind or KINDS
    }
    with chromium() as browser:
        version = browser.version
    notes = [
        f"{args.models} made-up models, {args.examples:,} examples, {len(THREATS)} threats; medians of {args.loads} "
        f"loads of a page of {WIDE['width']} by {WIDE['height']} pixels. Other processes at its start: {load:.1f}.",
        f"Command: python benchmarks/leaderboard_scale.py --models {args.models} --examples {args.examples} "
        f"--loads {args.loads}",
    ]
    text = report(columns, version, notes)
    print(text)
    if not args.kind:
        (Path(__file__).parent / "results" / "leaderboard-scale.md").write_text(text)


if __name__ == "__main__":
    main()
