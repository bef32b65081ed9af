"""`robench reproduce`: its options and its help."""

from pathlib import Path
from typing import Any

import click

from ..options import machine_options


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
    """
    from ..reproduce import run

    return run(**options)
