"""Options that several commands take."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..problem.datasets.preparation import Preparation

F = TypeVar("F", bound=Callable[..., Any])

SEARCHED = 20  # standing examples of a new model that are searched again


class NamedPath(click.Path):
    """A path that is not empty: an unset variable of a shell must not stand for the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; name a file or folder, or . for this folder", param, ctx)
        return super().convert(value, param, ctx)


class NamedModel(NamedPath):
    """The path of a model without suffix, which a folder's name is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.endswith("/"):
            self.fail(f"{value} names a folder; add the name of the model, like {value}mine", param, ctx)
        return super().convert(value, param, ctx)


def model_options(command: F) -> F:
    """Adds options for reading a checkpoint."""
    for option in (
        click.option(
            "--trust-pickle",
            is_flag=True,
            help="Load a file that can run code, and confine nothing. Only for files you trust.",
        ),
        click.option(
            "--normalise", metavar="NAME|MEAN/STD", help="Normalisation that the model expects: none, mnist, ..."
        ),
        click.option("--weights", metavar="KEY", help="Key or prefix of the weights, where a file holds several sets."),
        click.option(
            "--arch",
            metavar="NAME|FACTORY",
            help="A known architecture, module:factory, file.py:factory or 'file.py:factory(depth=20)'.",
        ),
    ):
        command = option(command)
    return command


def data_options(default: str) -> Callable[[F], F]:
    """Adds options for the images and their preparation; `default` describes the images where none are named."""

    def decorate(command: F) -> F:
        for option in (
            click.option("--channels", metavar="1|3", help="Read images of a folder in grey, or in colour."),
            click.option(
                "--labels", metavar="FILE", help="File that maps the classes of a folder to outputs of the model."
            ),
            click.option(
                "--interpolation", metavar="NAME", help="Interpolation of --resize: bilinear, bicubic, nearest."
            ),
            click.option("--crop", metavar="N|HxW", help="Centre crop of the images of a folder, after --resize."),
            click.option("--resize", metavar="N|HxW", help="Resize the images of a folder; N is the shorter side."),
            click.option(
                "--data",
                metavar="NAME|FOLDER|FILE.npz",
                help=f"The images.  [default: {default}]",
            ),
        ):
            command = option(command)
        return command

    return decorate


def preparation(options: dict[str, Any]) -> "Preparation":
    """The preparation of images, from its options, which are removed from those of the command."""
    from ..problem.datasets.preparation import OPTIONS, Preparation  # imports torch, for which --help does not wait

    return Preparation(**{key: options.pop(key) or "" for key in OPTIONS})


def question_options(command: F) -> F:
    """Adds options for the question to evaluate."""
    for option in (
        click.option("--seed", type=int, help="Seed of all random numbers.  [default: the protocol's]"),
        click.option(
            "--curve", is_flag=True, help="Run minimum-norm attacks to the end, for accuracy against radius; slower."
        ),
        click.option("--every-attack", is_flag=True, help="Run each attack on every correct example, to compare them."),
        click.option("--shuffled", is_flag=True, help="Take examples in a fixed order that mixes the classes."),
        click.option(
            "--examples",
            metavar="N|A:B|random:N|stratified:N|held-out:N",
            help="The first N, those numbered A to B-1, a sample (@SEED: another), or held-out ones of NAME:train.",
        ),
        click.option(
            "--attack",
            "attacks",
            multiple=True,
            metavar="ATTACK",
            help="Replace the attacks; repeatable. file.py:Class is your own, whose code runs.",
        ),
        click.option(
            "--threat",
            "threats",
            multiple=True,
            metavar="THREAT",
            help="Replace the threats, as linf:8/255; repeatable.",
        ),
        click.option(
            "--protocol",
            metavar="NAME|FILE.toml",
            help="Named threats, attacks and examples.  [default: the data set's]",
        ),
    ):
        command = option(command)
    return command


def precision_option(command: F) -> F:
    """Adds the option for the precision of the search."""
    return click.option(
        "--precision",
        default=None,
        help="Precision of the search: auto, float32, bfloat16, tf32. Verification always uses float32."
        "  [default: ROBENCH_PRECISION, else auto]",
    )(command)


def debug_option(command: F) -> F:
    """Adds the option that every command has. `main` reads it before click does, so that it works everywhere."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error.")(command)


def machine_options(command: F) -> F:
    """Adds options for the device and the output."""
    for option in (
        click.option("--quiet", is_flag=True, help="Print only the result."),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, or cuda:1."),
    ):
        command = option(command)
    return debug_option(command)


def submission_options(command: F) -> F:
    """Adds options for verifying submissions."""
    folder = NamedPath()
    for option in (
        click.option("--device", default="auto", show_default=True, help="Where submissions are verified: cpu, cuda."),
        click.option("--found", metavar="DIR", type=folder, help="Folder for run files with what that search breaks."),
        click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Seed of that search.  [default: a random one]"),
        click.option(
            "--search",
            type=click.IntRange(min=0),
            metavar="N",
            default=SEARCHED,
            show_default=True,
            help="Search N standing examples of each submitted model again; 0 for none.",
        ),
        click.option(
            "--weights",
            multiple=True,
            metavar="FILE",
            type=folder,
            help="Weights of a submitted model, known by their hash, in place of its address. Repeatable.",
        ),
        click.option(
            "--submissions", metavar="DIR", type=folder, help="Verify the submissions in DIR; accepted ones count."
        ),
    ):
        command = option(command)
    return command
