"""`robench merge`: its options and its help."""

from pathlib import Path
from typing import Any

import click

from .. import existing
from ..options import debug_option


@click.command("merge")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run file to write; it must not exist.")
@click.option("--slim", is_flag=True, help="Leave the images out: smaller, but the file cannot be verified.")
@click.option("--compress", is_flag=True, help="Compress the file, to an eighth if it is slim: it can be read only.")
@debug_option
def command(**options: Any) -> None:
    """Take the worst outcome of each example over several runs of one model on one data set, in any order.

    \b
    robench merge monday.robench tuesday.robench --out both.robench
    robench merge big.robench --slim --compress --out small.robench
    """
    existing.refuse_missing(options, runs=options["runs"])
    from ..merge import run

    run(**options)
