"""Options that several commands take."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..problem.datasets.preparation import Preparation

F = TypeVar("F", bound=Callable[..., Any])


def model_options(command: F) -> F:
    """How to read a checkpoint."""
    for option in (
        click.option("--trust-pickle", is_flag=True, help="Load a file that runs code. Only for files you trust."),
        click.option(
            "--normalise", metavar="NAME|MEAN/STD", help="What the model expects of its images: none, mnist, ..."
        ),
        click.option(
            "--weights", metavar="KEY", help="Of several sets of weights in a file, that under this key or prefix."
        ),
        click.option(
            "--arch",
            metavar="NAME|FACTORY",
            help="A known architecture, module:factory, file.py:factory or 'file.py:factory(depth=20)'.",
        ),
    ):
        command = option(command)
    return command


def data_options(default: str) -> Callable[[F], F]:
    """Which images, and how they are prepared; `default` says which where none are named."""

    def decorate(command: F) -> F:
        for option in (
            click.option("--channels", metavar="1|3", help="Read images of a folder as grey, or as colour."),
            click.option("--labels", metavar="FILE", help="Which output of the model each class of a folder is."),
            click.option("--interpolation", metavar="NAME", help="Of --resize: bilinear, bicubic, nearest."),
            click.option("--crop", metavar="N|HxW", help="The middle of the images of a folder, after --resize."),
            click.option("--resize", metavar="N|HxW", help="Resize the images of a folder; N is the shorter side."),
            click.option("--data", metavar="NAME|FOLDER|FILE.npz", help=f"The images.  [default: {default}]"),
        ):
            command = option(command)
        return command

    return decorate


def preparation(options: dict[str, Any]) -> "Preparation":
    """What the options about preparing images say, taken out of those of a command."""
    from ..problem.datasets.preparation import OPTIONS, Preparation  # imports torch, for which --help does not wait

    return Preparation(**{key: options.pop(key) or "" for key in OPTIONS})


def question_options(command: F) -> F:
    """What is asked about a model."""
    for option in (
        click.option("--seed", type=int, help="Of all random numbers.  [default: the protocol's]"),
        click.option(
            "--curve", is_flag=True, help="Let minimum-norm attacks finish: accuracy against radius. Takes longer."
        ),
        click.option("--every-attack", is_flag=True, help="Run each attack on every correct example, to compare them."),
        click.option("--shuffled", is_flag=True, help="Take examples in a fixed order that mixes the classes."),
        click.option("--examples", metavar="N|A:B", help="The first N examples, or those numbered A to B-1."),
        click.option(
            "--attack",
            "attacks",
            multiple=True,
            metavar="ATTACK",
            help="Replace the attacks; repeatable. file.py:Class is your own, whose code runs.",
        ),
        click.option(
            "--threat", "threats", multiple=True, metavar="THREAT", help="Replace the threats, as linf:8/255."
        ),
        click.option("--protocol", metavar="NAME|FILE.toml", help="A named evaluation.  [default: the data set's]"),
    ):
        command = option(command)
    return command


def precision_option(command: F) -> F:
    """How exactly the search computes."""
    return click.option(
        "--precision",
        default=None,
        help="Of the search: auto, float32, bfloat16, tf32. Verification always uses float32."
        "  [default: ROBENCH_PRECISION, else auto]",
    )(command)


def debug_option(command: F) -> F:
    """What every command takes. `main` reads it before click does, so that it works everywhere."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error.")(command)


def machine_options(command: F) -> F:
    """Where it runs, and how much it says."""
    for option in (
        click.option("--quiet", is_flag=True, help="Print the result alone."),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, or cuda:1."),
    ):
        command = option(command)
    return debug_option(command)
