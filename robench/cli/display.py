"""Progress on the terminal: a live line where there is one, else a plain line now and then. On stderr always."""

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
PLAIN_EVERY = 10.0  # seconds between lines where nothing can be redrawn


class Display:
    """Tells how an evaluation goes: the running bound, what is under way, about how long it will take."""

    def __init__(self, quiet: bool = False, doubt: Callable[[Summary], str | None] = lambda _: None):
        self.quiet = quiet
        self.doubt = doubt  # what to warn of, once the clean accuracy is known
        self.console = Console(stderr=True)
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            transient=True,
        )
        self.task: TaskID | None = None
        self.examples = 0
        self.what = ""
        self.begun = self.told_at = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator["Display"]:
        """While it is on the screen."""
        with self.bar:
            yield self

    def clean(self, summary: Summary) -> None:
        self.examples = summary.data.examples
        self.say(f"clean accuracy {summary.clean.accuracy:.1%} ({summary.clean.correct} of {self.examples})")
        if not self.quiet and (warning := self.doubt(summary)):
            self.say(f"warning: {warning}")

    def attacking(self, threat: str, attack: str) -> None:
        self.what = one_line(f"{threat} {attack}")
        if self.task is None:
            self.begun = self.told_at = time.monotonic()
            self.task = self.bar.add_task(escape(self.what), told="", total=1)
        self.bar.update(self.task, description=escape(self.what))

    def moved(self, standing: int, queries_done: int, queries_left: int) -> None:
        now = time.monotonic()
        if self.quiet or now - self.told_at < (REDRAW_EVERY if self.console.is_terminal else PLAIN_EVERY):
            return
        self.told_at = now
        done = queries_done / (queries_done + queries_left)
        told = f"≤ {standing / max(self.examples, 1):.1%} stand, {_left(now - self.begun, done)}"
        if self.console.is_terminal:
            assert self.task is not None, "an attack begins before it moves"
            self.bar.update(self.task, completed=done, told=told)
        else:
            self.say(f"{self.what}: {told}")

    def noted(self, text: str) -> None:
        self.say(f"note: {text}")

    def say(self, text: str) -> None:
        """A line that stays."""
        text = one_line(text)
        if not self.quiet:
            if self.console.is_terminal:
                self.bar.console.print(text, highlight=False, markup=False)
            else:
                click.echo(text, err=True)


class TrainingDisplay:
    """Tells how a training goes: loss, accuracies, images per second, about how long it will take."""

    def __init__(self, quiet: bool = False, batch: int = 0):
        self.quiet = quiet
        self.batch = batch  # images per step
        self.console = Console(stderr=True)
        self.begun = self.told_at = time.monotonic()
        self.first: int | None = None
        self.mean_loss = self.mean_accuracy = 0.0
        self.warned = False

    def step(self, step: int, steps: int, loss: float, accuracy: float) -> None:
        if self.first is None:
            self.first, self.mean_loss, self.mean_accuracy = step - 1, loss, accuracy
            if self.first:
                self._line(f"going on after step {self.first} of {steps}")
        self.mean_loss += 0.05 * (loss - self.mean_loss)
        self.mean_accuracy += 0.05 * (accuracy - self.mean_accuracy)
        now = time.monotonic()
        every = 0.5 if self.console.is_terminal else PLAIN_EVERY
        if self.quiet or (now - self.told_at < every and step < steps):
            return
        self.told_at = now
        done, elapsed = step - self.first, now - self.begun
        text = (
            f"step {step}/{steps}, {_left(elapsed, done / max(steps - self.first, 1))}, "
            f"{done * self.batch / max(elapsed, 1e-9):,.0f} images/s: loss {self.mean_loss:.3f}, "
            f"{self.mean_accuracy:.1%} right in training"
        )
        if self.console.is_terminal:  # a line that wraps cannot be drawn over
            click.echo(f"\r\033[K{text[: self.console.width - 1]}", err=True, nl=step == steps)
        else:
            click.echo(text, err=True)

    def looked(self, look: ValidationCheck) -> None:
        """At the images kept out."""
        robust = "" if look.robust is None else f", {look.robust:.1%} under attack"
        self._line(f"kept out: {look.clean:.1%} clean{robust}, after step {look.step}")
        if look.warning and not self.warned:
            self.warned = True
            self._line(f"warning: {look.warning}")

    def _line(self, text: str) -> None:
        """One that stays."""
        text = one_line(text)
        if not self.quiet:
            click.echo(f"\r\033[K{text}" if self.console.is_terminal else text, err=True)


def _left(elapsed: float, done: float) -> str:
    """`about 1:20 left`, once there is something to reckon with."""
    if done <= 0.002 or elapsed < 1:
        return "reckoning the time"
    seconds = round(elapsed * (1 - done) / done)
    hours, rest = divmod(seconds, 3600)
    return f"about {f'{hours}:{rest // 60:02}' if hours else rest // 60}:{rest % 60:02} left"
