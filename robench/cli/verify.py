"""`robench verify`: judge the evidence of a run file again, with no attack code."""

from pathlib import Path

import click
import torch

from .. import __version__
from ..errors import UserError
from ..evidence.records import Evidence
from ..evidence.referee import Referee
from ..evidence.store import RunFile
from ..problem import threats
from ..problem.split import Split
from ..problem.threats.base import NO_WITNESS
from ..results.summary import summarise
from ..results.tables import render
from .options import data_options, machine_options, model_options, preparation
from .reloading import reloaded


@click.command("verify")
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--model", "checkpoint", metavar="CHECKPOINT", help="Where the model is now.  [default: where it was]")
@data_options("where they were, prepared as they were")
@model_options
@machine_options
def command(
    run_path: Path,
    checkpoint: str | None,
    data: str | None,
    arch: str | None,
    normalise: str | None,
    trust_pickle: bool,
    device: str,
    quiet: bool,
    **prepared: str | None,
) -> int:
    """Look at every image of a run file again: is it in the set, and does it fool the model?

    Loads the model and the images, searches nothing, prints the table anew. Exit 1 when evidence does not hold.

    \b
    robench verify runs/digits-adv-linf-1a2b3c4d.robench
    robench verify theirs.robench --model their-model.pt --data mnist
    """
    with RunFile.read(run_path) as run:
        plan = run.plan()
        if plan is None:
            raise UserError(f"{run_path} holds no plan yet: there is nothing to verify")
        evidence = run.evidence()
        split, referee = reloaded(
            run_path,
            plan,
            evidence.environment,
            checkpoint=checkpoint,
            data=data,
            preparation=preparation(prepared),
            arch=arch,
            normalise=normalise,
            trust_pickle=trust_pickle,
            device=device,
        )
        image_faults, images = _image_faults(run, evidence, split, referee)
        faults = [*_clean_faults(evidence, split, referee), *image_faults]
    for fault in faults:
        click.echo(fault, err=True)
    click.echo(render([summarise(plan, evidence, __version__)], intervals=True))
    judged = f"{len(split)} clean answers and {images} adversarial images judged again"
    click.echo(f"{judged}: {f'{len(faults)} do not hold' if faults else 'all hold'}")
    return 1 if faults else 0


def _clean_faults(evidence: Evidence, split: Split, referee: Referee) -> list[str]:
    said = {c.example: c.correct for c in evidence.clean}
    right = referee.hear(split.x, split.y).right.tolist()
    return [
        f"example {number}: recorded as {'right' if said[number] else 'wrong'} before any attack, and it is not"
        for number, correct in zip(split.numbers, right, strict=True)
        if said.get(number, correct) != correct
    ]


def _image_faults(run: RunFile, evidence: Evidence, split: Split, referee: Referee) -> tuple[list[str], int]:
    """What is wrong with the images that are kept, or with broken examples that have none; and how many were judged."""
    rows = {number: row for row, number in enumerate(split.numbers)}
    claims = {c.id: c for c in evidence.claims}
    kept: dict[str, list[tuple[int, torch.Tensor, tuple[float, ...]]]] = {}
    for claim, image in run.images(split.shape):
        if claims[claim].example in rows:
            c = claims[claim]
            kept.setdefault(c.threat, []).append((rows[c.example], torch.from_numpy(image), c.witness or NO_WITNESS))
    faults = []
    for text, images in kept.items():
        index = [row for row, _, _ in images]
        x_adv, witness = torch.stack([image for _, image, _ in images]), torch.tensor([w for _, _, w in images])
        rulings = referee.judge(threats.parse(text), split.x[index], split.y[index], x_adv, witness)
        faults += [
            f"example {split.numbers[row]} under {text}: its image {ruling.reason}"
            for row, ruling in zip(index, rulings, strict=True)
            if not ruling.accepted
        ]
    shown = {(split.numbers[row], text) for text, images in kept.items() for row, _, _ in images}
    broken = {(c.example, c.threat) for c, v in evidence.judged() if v.accepted and c.example in rows}
    faults += [f"example {e} under {text}: broken by an image that is not kept" for e, text in sorted(broken - shown)]
    return faults, sum(map(len, kept.values()))
