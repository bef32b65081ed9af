"""`robench verify`: compare a run file with its images, the data and the model."""

import secrets
from pathlib import Path

import click

from .. import __version__
from ..errors import UserError
from ..evaluation.recorded import recorded_plan
from ..evaluation.spot_check import LEVEL, SpotCheck, spot_check
from ..evaluation.verification import min_passes, verify
from ..evidence.records import Plan
from ..evidence.refutation import Facts, Refuted
from ..evidence.store import RunFile
from ..problem import checkpoints, datasets
from ..results.summarising import summarise
from ..results.summary import Summary
from ..results.tables import render
from ..search.own_attack import Consent
from .display import Display
from .options import preparation
from .reloading import Reloaded, reloaded
from .terminal import echo, one_line

STOPPED = 130


def run(
    run_path: Path,
    checkpoint: str | None,
    data: str | None,
    search: int | None,
    attacks: tuple[str, ...],
    seed: int | None,
    arch: str | None,
    weights: str | None,
    normalise: str | None,
    trust_pickle: bool,
    device: str,
    quiet: bool,
    **prepared: str | None,
) -> int:
    """Runs the command; commands/verify.py documents its options."""
    if attacks and search is None:
        raise UserError("--attack is for searching again; add --search N, or leave it out")
    consent = Consent.of(attacks)
    with RunFile.read(run_path) as run:
        plan, evidence = recorded_plan(run, hint="there is nothing to verify"), run.evidence()
        loaded = reloaded(
            run_path,
            plan,
            evidence.environment,
            checkpoint=checkpoint,
            data=data,
            preparation=preparation(prepared),
            arch=arch,
            weights=weights,
            normalise=normalise,
            trust_pickle=trust_pickle,
            device=device,
        )
        facts = _facts(plan, loaded, checkpoint, data)
        found = verify(plan, evidence, run.images(loaded.split.shape), facts)
        slim = bool(found.faults) and not run.image_count()
    for fault in found.faults:
        click.echo(fault, err=True)
    click.echo(render([summarise(plan, evidence, __version__)], intervals=True))
    click.echo(_judged(found))
    if slim:
        why = f"{run_path} is slim: its images were left out, so it does not verify; name the whole run"
        echo(one_line(why), err=True)
    if found.faults or search is None:
        click.echo(
            "this proves what is broken; that the rest stands is only claimed (--search N searches N of them again)"
        )
        return 1 if found.faults else 0
    seed = secrets.randbelow(2**32) if seed is None else seed
    display = _SearchDisplay(quiet)
    with display.shown():
        again = spot_check(
            *(plan, evidence, loaded.whole, loaded.source.load(loaded.split).classifier, loaded.referee),
            n=search,
            seed=seed,
            progress=display,
            consent=consent,
        )
    for (example, threat), attack in again.broken.items():
        click.echo(f"example {example} under {threat}: recorded as standing, and broken by {attack}", err=True)
    for text in again.left_out:
        click.echo(f"note: not searched again with {text}", err=True)
    click.echo(_searched(again))
    return 1 if again.broken else 0 if again.finished else STOPPED


def _facts(plan: Plan, loaded: Reloaded, checkpoint: str | None, data: str | None) -> Facts:
    """What the run is compared with. A file that is named now may have had another name before."""
    from_file = data is not None and data.lower().endswith(".npz")
    if from_file and datasets.find(plan.data.partition(":")[0]):
        raise UserError(f"the run is about {plan.data}, a data set of that name; use that name with --data, not {data}")
    typed = checkpoint is not None and checkpoints.locate(checkpoint)[1] is None
    return Facts(
        whole=loaded.whole,
        classifier=loaded.referee.classifier,
        model=None if typed else loaded.referee.classifier.name,
        data=None if from_file else loaded.whole.name,
        min_passes=min_passes,
    )


def _judged(found: Refuted) -> str:
    judged = f"{found.clean} clean answers and {found.images} adversarial images judged again"
    close = f" ({found.close} of them by a margin below the differences between machines)" if found.close else ""
    return f"{judged}{close}: {f'{len(found.faults)} do not hold' if found.faults else 'all hold'}"


def _searched(again: SpotCheck) -> str:
    if not again.standing:
        return "no example stands, so there is nothing to search again"
    line = f"{again.searched} of {again.standing} standing examples searched again with seed {again.seed}"
    if again.open:
        line += f", {len(again.open)} more not to the end"
    if not again.searched:
        return line
    line += f": {again.examples_broken} {'was' if again.examples_broken == 1 else 'were'} broken"
    if again.searched < again.standing:
        line += f"; of all, such a search would break at most {100 * again.bound:.1f} % (exact bound, {LEVEL:.0%})"
    return line


class _SearchDisplay(Display):
    """Progress of the search, without a line on clean accuracy: every standing example is correct."""

    def clean(self, summary: Summary) -> None:
        self.examples = summary.data.examples
