"""Progress on stderr: a live line on a terminal, otherwise a plain line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from ..recipes.validation import ValidationCheck
from ..results.summary import Summary
from .terminal import one_line

REDRAW_EVERY = 0.2  # seconds
PLAIN_EVERY = 10.0  # seconds between lines when there is no terminal


class Display:
    """Shows the progress of an evaluation: the present bound, the attack, and the time left."""

    def __init__(self, quiet: bool = False, doubt: Callable[[Summary], str | None] = lambda _: None):
        self.quiet = quiet
        self.doubt = doubt  # a warning, once the clean accuracy is known
        self.console = Console(stderr=True)
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            transient=True,
        )
        self.task: TaskID | None = None
        self.examples = 0
        self.what = ""
        self.started = self.shown_at = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator["Display"]:
        """A context in which the live line is on the screen."""
        with self.bar:
            yield self

    def clean(self, summary: Summary) -> None:
        self.examples = summary.data.examples
        self.show(f"clean accuracy {summary.clean.accuracy:.1%} ({summary.clean.correct} of {self.examples})")
        if not self.quiet and (warning := self.doubt(summary)):
            self.show(f"warning: {warning}")

    def attacking(self, threat: str, attack: str) -> None:
        self.what = one_line(f"{threat} {attack}")
        if self.task is None:
            self.started = self.shown_at = time.monotonic()
            self.task = self.bar.add_task(escape(self.what), status="", total=1)
        self.bar.update(self.task, description=escape(self.what))

    def moved(self, standing: int, queries_done: int, queries_left: int) -> None:
        now = time.monotonic()
        if self.quiet or now - self.shown_at < (REDRAW_EVERY if self.console.is_terminal else PLAIN_EVERY):
            return
        self.shown_at = now
        done = queries_done / (queries_done + queries_left)
        status = f"≤ {standing / max(self.examples, 1):.1%} stand, {_left(now - self.started, done)}"
        if self.console.is_terminal:
            assert self.task is not None, "an attack starts before it moves"
            self.bar.update(self.task, completed=done, status=status)
        else:
            self.show(f"{self.what}: {status}")

    def noted(self, text: str) -> None:
        self.show(f"note: {text}")

    def show(self, text: str) -> None:
        """Prints a line that stays."""
        text = one_line(text)
        if not self.quiet:
            if self.console.is_terminal:
                self.bar.console.print(text, highlight=False, markup=False)
            else:
                click.echo(text, err=True)


class TrainingDisplay:
    """Shows the progress of a training: loss, accuracies, images per second, and the time left."""

    def __init__(self, quiet: bool = False, batch: int = 0):
        self.quiet = quiet
        self.batch = batch  # images per step
        self.console = Console(stderr=True)
        self.started = self.shown_at = time.monotonic()
        self.first: int | None = None
        self.mean_loss = self.mean_accuracy = 0.0
        self.warned = False

    def step(self, step: int, steps: int, loss: float, accuracy: float) -> None:
        if self.first is None:
            self.first, self.mean_loss, self.mean_accuracy = step - 1, loss, accuracy
            if self.first:
                self._line(f"continuing after step {self.first} of {steps}")
        self.mean_loss += 0.05 * (loss - self.mean_loss)
        self.mean_accuracy += 0.05 * (accuracy - self.mean_accuracy)
        now = time.monotonic()
        every = 0.5 if self.console.is_terminal else PLAIN_EVERY
        if self.quiet or (now - self.shown_at < every and step < steps):
            return
        self.shown_at = now
        done, elapsed = step - self.first, now - self.started
        text = (
            f"step {step}/{steps}, {_left(elapsed, done / max(steps - self.first, 1))}, "
            f"{done * self.batch / max(elapsed, 1e-9):,.0f} images/s: loss {self.mean_loss:.3f}, "
            f"{self.mean_accuracy:.1%} correct in training"
        )
        if self.console.is_terminal:  # a line that wraps cannot be drawn over
            click.echo(f"\r\033[K{text[: self.console.width - 1]}", err=True, nl=step == steps)
        else:
            click.echo(text, err=True)

    def validated(self, check: ValidationCheck) -> None:
        """Shows the accuracy on the images that are held out."""
        robust = "" if check.robust is None else f", {check.robust:.1%} under attack"
        self._line(f"held out: {check.clean:.1%} clean{robust}, after step {check.step}")
        if check.warning and not self.warned:
            self.warned = True
            self._line(f"warning: {check.warning}")

    def _line(self, text: str) -> None:
        """Prints a line that stays."""
        text = one_line(text)
        if not self.quiet:
            click.echo(f"\r\033[K{text}" if self.console.is_terminal else text, err=True)


def _left(elapsed: float, done: float) -> str:
    """The time left, as `about 1:20 left`, once it can be estimated."""
    if done <= 0.002 or elapsed < 1:
        return "estimating the time left"
    seconds = round(elapsed * (1 - done) / done)
    hours, rest = divmod(seconds, 3600)
    return f"about {f'{hours}:{rest // 60:02}' if hours else rest // 60}:{rest % 60:02} left"
