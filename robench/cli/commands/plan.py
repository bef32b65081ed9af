"""`robench plan`: its options and its help."""

from pathlib import Path
from typing import Any

import click

from ..options import NamedPath, debug_option


@click.command("plan")
@click.argument("path", metavar="SUITE.toml", type=click.Path(path_type=Path))
@click.option(
    "--shards", type=int, default=1, show_default=True, metavar="N", help="Divide every evaluation into N commands."
)
@click.option(
    "--format",
    "form",
    default="commands",
    show_default=True,
    metavar="commands|slurm",
    help="A line per command, or an array script.",
)
@click.option("--out", type=NamedPath(), default="runs", show_default=True, help="Folder for the run files.")
@click.option(
    "--estimate/--no-estimate",
    default=True,
    show_default=True,
    help="Load each model, and measure its rate on this machine.",
)
@click.option("--device", default="auto", show_default=True, help="Where the rate is measured: cpu, cuda, or cuda:1.")
@debug_option
def command(**options: Any) -> None:
    """Print the commands that evaluate a suite: models x data x protocols.

    Nothing is evaluated. The last command prints one table of all. SUITE.toml has `models`, a list of checkpoints, or
    of tables with `checkpoint`, `arch`, `weights`, `normalise` and `data`; and, if the cards do not suffice, lists
    `data` and `protocols`, and the options `examples`, `seed`, `precision`, `masking`, `every_attack` and `curve`.
    Paths in it are relative to the folder in which the commands are typed.

    \b
    robench plan suite.toml
    robench plan suite.toml --shards 8
    robench plan suite.toml --shards 8 --format slurm > suite.sh
    """
    from ..plan import run

    run(**options)
