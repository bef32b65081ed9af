"""`robench claim`: its options and its help."""

from pathlib import Path
from typing import Any

import click

from .. import existing
from ..options import data_options, machine_options, model_options


@click.command("claim")
@click.argument("checkpoint", metavar="MODEL")
@click.argument("files", metavar="FILE.npz...", nargs=-1, required=True, type=click.Path(path_type=Path))
@data_options("those of the model's card")
@click.option(
    "--threat",
    "threats",
    multiple=True,
    metavar="THREAT",
    help="Judge under this threat, as linf:8/255; repeatable.  [default: the run's, else those in the files]",
)
@click.option("--examples", metavar="N|A:B|random:N|...", help="Examples of a new run, as in evaluate.")
@click.option("--shuffled", is_flag=True, help="Take the examples of a new run in an order that mixes the classes.")
@click.option("--seed", type=int, help="Seed of the run.  [default: the protocol's]")
@model_options
@click.option(
    "--run", "run_path", type=click.Path(path_type=Path), help="Run file for the claims.  [default: that of evaluate]"
)
@machine_options
def command(**options: Any) -> int:
    """Let the referee judge adversarial images of any origin, and keep those it accepts as evidence.

    FILE.npz holds x_adv, images of shape (N,C,H,W), (N,H,W,C) or (N,H,W), floats from 0 to 1 or bytes; and
    example, the number of each in the data set  [default: 0 to N-1]. What robench export writes is read as it is.

    An image counts under every threat in whose set it lies. Claims are added to the run file of evaluate and lower
    its numbers. Without one a new run starts, in which every example without an accepted image stays open.
    Exit 0 if an image was accepted, 1 if none was.

    \b
    robench claim digits-adv-linf adv.npz --threat linf:0.2
    robench claim model.pt mine.npz yours.npz --data mnist --threat linf:0.3 --threat l2:2
    robench claim model.pt adv.npz --data mnist --run runs/mine.robench
    """
    existing.refuse_missing(options)
    from ..claim import run

    return run(**options)
