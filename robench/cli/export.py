"""`robench export`: the images and rows of a run file, for other programs."""

import importlib.util
import io
from collections import Counter
from pathlib import Path

import click
import numpy as np

from .. import __version__
from ..errors import UserError, counted
from ..evaluation.export import Arrays, Images, examples_of, images_of, selected
from ..evaluation.recorded import recorded_plan
from ..evidence.store import RunFile
from ..problem import durable
from ..results import figures
from ..results.exported import frame
from ..results.figures import Shown
from ..results.summary import Summary, summarise
from .options import data_options, debug_option, preparation
from .running import refuse_unwritable

ROWS, IMAGES = (".csv", ".parquet"), (".npz", ".png")
MAX = 48  # images on a sheet


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
def command(
    run_path: Path,
    out: Path,
    threats: tuple[str, ...],
    attacks: tuple[str, ...],
    examples: str | None,
    data: str | None,
    quiet: bool,
    **prepared: str | None,
) -> None:
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
    form = out.suffix.lower()
    if form not in (*ROWS, *IMAGES):
        raise UserError(
            f"--out {out} has a suffix that export does not know; end it with {', '.join((*IMAGES, *ROWS))}"
        )
    if form == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            "a .parquet file needs pyarrow, which is not installed; pip install 'robench[parquet]', or write a .csv"
        )
    prepare = preparation(prepared)
    refuse_unwritable(out, "--out", None, [str(run_path), data, prepare.labels])
    selection = selected(threats, attacks, examples)
    with RunFile.read(run_path) as run:
        plan, evidence = recorded_plan(run), run.evidence()
        refuse_unwritable(
            out, "--out", None, [evidence.environment.get(key) for key in ("data", "checkpoint", "labels")]
        )
        if form in ROWS:
            rows = frame(plan, evidence, selection)
            content = rows.to_csv(index=False).encode() if form == ".csv" else rows.to_parquet(index=False)
            what = counted(len(rows), "row")
        else:
            split = examples_of(run_path, plan, evidence.environment, data=data, preparation=prepare)
            images = images_of(run, plan, evidence, split, selection)
            content = (
                _npz(images.arrays) if form == ".npz" else _sheet(images.arrays, summarise(plan, evidence, __version__))
            )
            what = _counted(images, form)
    durable.replace(out, content)
    if not quiet:
        click.echo(f"{out}: {what}")


def _npz(arrays: Arrays) -> bytes:
    with io.BytesIO() as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return file.getvalue()


def _sheet(arrays: Arrays, summary: Summary) -> bytes:
    """The first images under each threat, side by side with the clean ones."""
    columns = [arrays[key][:MAX] for key in ("threat", "example", "y", "size", "x", "x_adv")]
    shown = [
        Shown(str(threat), int(example), int(label), None, float(size), x, x_adv)
        for threat, example, label, size, x, x_adv in zip(*columns, strict=True)
    ]
    return figures.image_bytes(figures.contact_sheet(summary, shown), "png")


def _counted(images: Images, form: str) -> str:
    """The number of images that were written, and of those that were not."""
    count = len(images.arrays["example"])
    by_threat = ", ".join(f"{threat} {n}" for threat, n in Counter(map(str, images.arrays["threat"])).items())
    text = f"{counted(count, 'adversarial image')} ({by_threat})"
    if form == ".png" and count > MAX:
        text = f"the first {MAX} of {text}; choose others with --threat, --attack or --examples"
    if images.without:
        verb = "is" if images.without == 1 else "are"
        text += f"; {images.without} more {verb} not in the run: it holds a smaller one by another attack, or none"
    return text
