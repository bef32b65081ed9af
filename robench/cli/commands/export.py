"""`robench export`: its options and its help."""

from pathlib import Path
from typing import Any

import click

from .. import existing
from ..options import data_options, debug_option


@click.command("export")
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write: .npz, .png, .csv, .parquet.",
)
@click.option("--threat", "threats", multiple=True, metavar="THREAT", help="Only under this threat; repeatable.")
@click.option(
    "--attack", "attacks", multiple=True, metavar="ATTACK", help="Only images found by this attack; repeatable."
)
@click.option("--examples", metavar="N|A:B", help="The first N examples, or those numbered A to B-1.")
@data_options("the recorded ones, prepared as they were")
@click.option("--quiet", is_flag=True, help="Print only errors.")
@debug_option
def command(**options: Any) -> None:
    """Write the adversarial images of a run file, or a row per example and threat. The suffix selects the format:

    \b
    .npz      arrays x, x_adv, y, example, threat, attack, size, margin, params
    .png      a sheet: clean, adversarial, and the difference
    .csv      a row per example and threat: outcome, attack, restart, target, size, margin, costs
    .parquet  the same rows

    Images are those of broken examples, one per threat: the smallest perturbation that counts. For .npz and .png the
    clean images are loaded. The model is never loaded, and the run file is not changed.

    \b
    robench export runs/digits-adv-linf-1a2b3c4d.robench --out adv.npz
    robench export runs/mine.robench --out sheet.png --threat linf:0.1 --examples 0:10
    robench export runs/mine.robench --out rows.csv
    """
    existing.refuse_missing(options, runs=[options["run_path"]])
    from ..export import run

    run(**options)
