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
from .options import preparation
from .running import command_line, display_of
from .terminal import echo, one_line


def run(
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
    """Runs the command; commands/claim.py documents its options."""
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
