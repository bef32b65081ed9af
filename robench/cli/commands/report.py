"""`robench report`: its options and its help."""

from pathlib import Path
from typing import Any

import click

from .. import existing
from ..options import debug_option


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    default="markdown",
    show_default=True,
    metavar="markdown|latex|html|csv|json",
    help="Format of the report.",
)
@click.option("--breakdown", is_flag=True, help="Add tables of the attacks: attack by model, and per model.")
@click.option("--together", is_flag=True, help="Add the number of examples that stand under all, some or no threats.")
@click.option("--masking", is_flag=True, help="Add the checks for gradient masking, and what to do next.")
@click.option("--claimed", is_flag=True, help="Add published accuracies of such models, from their cards.")
@click.option("--intervals", is_flag=True, help="Add 95 % intervals.")
@click.option("--side-by-side", is_flag=True, help="Show two questions, such as two sets of threats, left and right.")
@click.option(
    "--card",
    "cards",
    multiple=True,
    metavar="FILE.toml",
    type=click.Path(path_type=Path),
    help="A model's card, for OPT and hours; bundled ones are known. Repeatable.",
)
@click.option("--check", metavar="FILE", type=click.Path(path_type=Path), help="Exit 1 with a diff when FILE differs.")
@debug_option
def command(**options: Any) -> int:
    """Print the tables of one or more runs. The same files give the same bytes.

    RUN is a run file, or a summary that was written with --json.

    \b
    robench report runs/digits-adv-linf-*.robench --breakdown
    robench report runs/*.robench --format latex --intervals
    robench report runs/*.robench --check table.md
    """
    existing.refuse_missing(options, runs=options["runs"])
    from ..report import run

    return run(**options)
