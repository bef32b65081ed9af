"""`robench verify`: its options and its help."""

from pathlib import Path
from typing import Any

import click

from .. import existing
from ..options import data_options, machine_options, model_options


@click.command("verify")
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--model", "checkpoint", metavar="CHECKPOINT", help="Present location of the model.  [default: the recorded one]"
)
@click.option("--search", type=click.IntRange(min=1), metavar="N", help="Also search N standing examples again.")
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="FILE.py:CLASS",
    help="For --search: run the code of this attack of your own, which the run used; repeatable.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Seed of that search.  [default: a random one]")
@data_options("the recorded ones, prepared as they were")
@model_options
@machine_options
def command(**options: Any) -> int:
    """Compare a run file with its images, the data and the model.

    Judges every adversarial image again, recomputes whatever can be recomputed, and prints the table. Exit 1 when
    something does not hold. This proves which examples are broken. That the others stand is only claimed; --search
    tests this claim on a sample.

    \b
    robench verify runs/digits-adv-linf-1a2b3c4d.robench
    robench verify theirs.robench --model their-model.pt --data mnist
    robench verify theirs.robench --search 20
    """
    existing.refuse_missing(options, runs=[options["run_path"]])
    from ..verify import run

    return run(**options)
