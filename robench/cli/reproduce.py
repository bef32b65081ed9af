"""`robench reproduce`: tables of a paper, from training to page, by the other commands."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen
from types import FrameType

from ..errors import UserError
from ..problem import durable
from ..problem.checkpoints.cards import read_card
from ..problem.checkpoints.zoo import zoo_card, zoo_names
from ..reproduction import Paper, PaperTable, Size, plans
from ..reproduction.page import page
from ..reproduction.plans import Steps, steps
from ..results.summary import Summary
from ..results.tables import Origin
from .report import origin, read_summaries
from .running import command_line
from .terminal import echo

STOPPED = 130


def run(
    paper: str, tables: tuple[str, ...], size: str, out: Path | None, only_plan: bool, device: str, quiet: bool
) -> int:
    """Runs the command; commands/reproduce.py documents its options."""
    read = plans.read(paper)
    folder = out or Path(f"{paper}-{size}")
    bundled = _with_weights()
    work = [
        (table, table.sized(size), steps(table, table.sized(size), folder, bundled, device))
        for table in _tables(read, tables, size)
    ]
    for table, sized, parts in work:
        _show(table, sized, parts)
    if only_plan:
        return 0
    for table, sized, parts in work:
        _make_folder(folder / table.name)
        for step in parts:
            for words in (step.train, step.evaluate):
                if words and (code := _command(words, quiet)):
                    if code == STOPPED:
                        echo("the same robench reproduce continues from here", err=True)
                    return code
        text = _page(read, table, sized, parts)
        file = folder / f"table-{table.name}.md"
        durable.replace(file, text.encode())
        echo(text, nl=False)
        echo(f"this page is {file}", err=True)
    return 0


def _tables(paper: Paper, names: tuple[str, ...], size: str) -> list[PaperTable]:
    """The named tables, or all that have this size. Raises UserError if a named one lacks it, or if none has it."""
    chosen = paper.chosen(names)
    having = [table for table in chosen if size in table.sizes]
    for table in chosen:
        if size not in table.sizes and not names:
            echo(f"note: table {table.name} has no size {size}, and is left out", err=True)
    if not having or (names and len(having) < len(chosen)):
        chosen[0].sized(size)
        raise UserError(f"no table of {paper.title} has the size {size}; give another --size")
    return having


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error.strerror}; give another --out") from None


def _with_weights() -> frozenset[str]:
    """Bundled models whose weights are at hand."""
    cards = {name: zoo_card(name) for name in zoo_names()}
    return frozenset(name for name, path in cards.items() if path.with_name(read_card(path).weights).exists())


def _show(table: PaperTable, size: Size, parts: list[Steps]) -> None:
    echo(f"{table.title}: {size.hours}")
    for step in parts:
        for words in (step.train, step.evaluate):
            if words:
                echo(f"  robench {shlex.join(words)}")


def _command(words: list[str], quiet: bool) -> int:
    """Runs `robench` with these words in a process of its own; the exit code."""
    echo(f"+ robench {shlex.join(words)}", err=True)
    process = Popen([sys.executable, "-m", "robench", *words, *(["--quiet"] if quiet else [])], stdout=DEVNULL)
    with _passing_on(process):
        code = process.wait()
    return code if code >= 0 else 128 - code  # as a shell shows a process that a signal ended


@contextmanager
def _passing_on(process: Popen[bytes]) -> Iterator[None]:
    """Ctrl-C reaches the child from the terminal, and SIGTERM from here: it saves its state, and this process waits."""

    def pass_on(number: int, _: FrameType | None) -> None:
        if number == signal.SIGTERM:
            process.terminate()

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _page(paper: Paper, table: PaperTable, size: Size, parts: list[Steps]) -> str:
    summaries: dict[str, Summary] = {}
    origins: dict[str, Origin] = {}
    for step in parts:
        summary = read_summaries(step.run)[-1]
        summaries[step.model.name] = summary
        card = zoo_card(step.file) if not step.train else Path(step.file).with_suffix(".toml")
        origins[summary.model.name] = origin(read_card(card))
    return page(paper, table, size, summaries, origins, command_line())
