"""`robench reproduce`: its options and its help."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ...errors import UserError
from ..options import machine_options

TRAINING = {"--table": "tables", "--size": "size", "--out": "out", "--plan": "only_plan", "--device": "device"}


@click.command("reproduce")
@click.argument("paper")
@click.option(
    "--table", "tables", multiple=True, metavar="NAME", help="A table of the paper; repeatable.  [default: all]"
)
@click.option(
    "--size",
    type=click.Choice(["tiny", "small", "full"]),
    default="small",
    show_default=True,
    help="tiny: digits, minutes; small: small networks; full: the paper's networks and lengths.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for models, run files and pages.  [default: PAPER-SIZE]",
)
@click.option("--plan", "only_plan", is_flag=True, help="Print the commands and what they take; run nothing.")
@click.option(
    "--runs", type=click.Path(path_type=Path), metavar="FOLDER", help="Runs that are there, for --page and --check."
)
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    metavar="FILE.md",
    help="Write the page of the whole paper, from the runs of --runs; train nothing.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path),
    metavar="FILE.md",
    help="Compare such a page with the runs; exit code 1 where they differ.",
)
@machine_options
def command(**options: Any) -> int:
    """Make tables of a paper: train what is missing, evaluate, and write a page beside the published numbers.

    The papers are tramer2019 and madaan2021. Each step is a command that you could type; --plan prints them. After an
    interruption, the same command continues.

    \b
    robench reproduce tramer2019 --plan
    robench reproduce tramer2019 --table 1 --size tiny
    robench reproduce tramer2019 --table 1-left --out table1
    robench reproduce madaan2021 --table 1 --size full --device cuda
    robench reproduce tramer2019 --runs reports/runs --page reports/tramer2019.md
    """
    runs, page, check = (options.pop(name) for name in ("runs", "page", "check"))
    if page or check or runs:
        _refuse_more(runs, page, check)
        from ..paper_page import run as write

        return write(options["paper"], runs, page, check)
    from ..reproduce import run

    return run(**options)


def _refuse_more(runs: Path | None, page: Path | None, check: Path | None) -> None:
    """Raises UserError for options that do not go together."""
    if page and check:
        raise UserError("--page writes a page and --check compares one; give one of them")
    if runs is None or not (page or check):
        raise UserError("a paper's page needs the folder of runs and a file; give --runs and --page, or --check")
    typed = click.get_current_context().get_parameter_source
    for name, parameter in TRAINING.items():
        if typed(parameter) is ParameterSource.COMMANDLINE:
            raise UserError(f"{name} is about training, and --page about runs that are there; leave it out")
