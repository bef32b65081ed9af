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
from ..results.summarising import summarise
from ..results.summary import Summary
from .options import preparation
from .running import refuse_unwritable

ROWS, IMAGES = (".csv", ".parquet"), (".npz", ".png")
MAX = 48  # images on a sheet


def run(
    run_path: Path,
    out: Path,
    threats: tuple[str, ...],
    attacks: tuple[str, ...],
    examples: str | None,
    data: str | None,
    quiet: bool,
    **prepared: str | None,
) -> None:
    """Runs the command; commands/export.py documents its options."""
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
