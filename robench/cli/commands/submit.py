"""`robench submit`: its options and its help."""

from pathlib import Path
from typing import Any

import click

from .. import existing
from ..options import SEARCHED, NamedPath, machine_options


@click.command("submit")
@click.argument("run_path", metavar="RUN", type=NamedPath())
@click.option("--name", required=True, help="Name of the submission: letters a to z, digits and hyphens.")
@click.option("--by", required=True, metavar="TEXT", help="Who submits, as the board shows it.")
@click.option("--weights", metavar="FILE|URL", help="Weights of a model that is not bundled; https:// only.")
@click.option("--sha256", metavar="HASH", help="Hash of the weights; required with an address.")
@click.option("--card", type=NamedPath(), metavar="FILE.toml", help="The card of that model.")
@click.option("--note", default="", metavar="TEXT", help="One line for the maintainer.")
@click.option("--link", default="", metavar="URL", help="A paper or page.")
@click.option(
    "--board",
    multiple=True,
    metavar="FOLDER|RUN",
    type=NamedPath(),
    help="Runs of the board: accept the submission as its maintainer would, and print what it changes. Repeatable.",
)
@click.option(
    "--search",
    type=click.IntRange(min=0),
    metavar="N",
    default=SEARCHED,
    show_default=True,
    help="Search N standing examples of a new model again; 0 for none.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=NamedPath(),
    default=Path("reports/submissions"),
    show_default=True,
    help="Folder of the submissions.",
)
@machine_options
def command(**options: Any) -> int:
    """Write a folder for a leaderboard: RUN without folders of this machine, who sends it, and its weights by hash.

    A run of a bundled model challenges its numbers: its images can lower them. A new model needs --weights and its
    card. Everything is verified first, with the weights, and nothing is written that does not hold.

    \b
    robench submit runs/mine.robench --name fab-on-digits-sat --by "Ada Lovelace" --board reports/runs
    robench submit runs/net.robench --name net-one --by "Ada Lovelace" --weights net.safetensors --card net.toml
    """
    existing.refuse_missing(options, runs=[options["run_path"]])
    from ..submit import run

    return run(**options)
