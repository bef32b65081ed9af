"""`robench figures`: its options and its help."""

from pathlib import Path
from typing import Any

import click

from .. import existing
from ..options import data_options, machine_options, model_options


@click.command("figures")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder for the pictures.")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help="A kind from the list above; repeatable.  [default: all]"
)
@click.option(
    "--format", "forms", multiple=True, metavar="svg|png", help="Format of the files; repeatable.  [default: svg]"
)
@click.option(
    "--each",
    type=click.IntRange(1, 12),
    default=3,
    show_default=True,
    help="Number of images in the kinds that show images.",
)
@click.option(
    "--card",
    "cards",
    multiple=True,
    metavar="FILE.toml",
    type=click.Path(path_type=Path),
    help="A model's card, for the marks in trade-off; bundled ones are known. Repeatable.",
)
@click.option(
    "--model", "checkpoint", metavar="CHECKPOINT", help="Present location of the model.  [default: the recorded one]"
)
@data_options("the recorded ones, prepared as they were")
@model_options
@machine_options
def command(**options: Any) -> None:
    """Draw what run files hold, and print each file with its caption. The same runs give the same bytes.

    \b
    curve        accuracy against radius, of runs made with --curve
    trade-off    accuracy of two or more models under two or more threats, and under their union
    queries      accuracy against forward passes, per attack
    landscape    the loss around the first images that the model classifies correctly
    along        loss and margin from these images outwards, along the gradient and at random
    first-layer  the filters of the first layer, and the loss as black pixels become brighter
    features     the features of clean and adversarial images of two classes, in a plane
    gallery      the adversarial images nearest to their clean ones

    The last five kinds load the model and the data.

    \b
    robench figures runs/*.robench --out pictures
    robench figures runs/mine.robench --out pictures --kind gallery --format png
    """
    existing.refuse_missing(options, runs=options["runs"])
    from ..figures import run

    run(**options)
