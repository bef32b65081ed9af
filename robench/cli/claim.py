"""`robench claim`: adversarial images of any origin before the referee."""

from pathlib import Path

import click

from ..errors import counted
from ..evaluation.claim_file import read
from ..evaluation.claims import ClaimResult, put_claims
from ..evaluation.environment import pick_device
from ..evaluation.model_source import CheckpointSource
from ..evaluation.prepared import prepare
from ..evaluation.request import EvalRequest
from ..evidence.store import RunFile
from ..problem import datasets
from ..results.tables import render
from .options import data_options, machine_options, model_options, preparation
from .running import command_line, display_of
from .terminal import echo, one_line


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
def command(
    checkpoint: str,
    files: tuple[Path, ...],
    data: str | None,
    threats: tuple[str, ...],
    examples: str | None,
    shuffled: bool,
    seed: int | None,
    arch: str | None,
    weights: str | None,
    normalise: str | None,
    trust_pickle: bool,
    run_path: Path | None,
    device: str,
    quiet: bool,
    **prepared: str | None,
) -> int:
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
    request = EvalRequest(
        data=data,
        examples=examples,
        seed=seed,
        preparation=preparation(prepared),
        shuffled=shuffled,
    )
    source = CheckpointSource(checkpoint, arch, normalise, trust_pickle, pick_device(device), weights)
    ready = prepare(request, source, command=command_line())
    whole = datasets.source(request.data_name(ready.card), preparation=request.preparation)
    claimed = [read(path, ready.split.shape, whole) for path in files]
    path = run_path or ready.default_run
    display = display_of(ready, quiet)
    with RunFile.open(path) as run, display.shown():
        for note in ready.loading_notes:
            display.noted(note)
        result = put_claims(ready, whole, run, claimed, threats, progress=display)
    echo(render([result.summary], intervals=True))
    for line in _lines(result):
        click.echo(one_line(line))
    display.show(f"evidence in {path}")
    return 0 if result.accepted else 1


def _lines(result: ClaimResult) -> list[str]:
    """What became of the images, a line for each."""
    lines = [f"{result.accepted} of {counted(result.images, 'image')} accepted"]
    lines += [
        f"{threat}: {result.under[threat]} accepted, {counted(broken, 'example')} newly broken"
        for threat, broken in result.broken.items()
    ]
    for rejection, number in result.rejected.items():
        lines.append(f"{number} rejected, {rejection} (first: {result.reasons[rejection]})")
    lines += [f"{number} not judged: {why}" for why, number in result.left_out.items()]
    return lines
