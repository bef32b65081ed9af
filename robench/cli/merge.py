"""`robench merge`: several run files of one model as one, the worst per example."""

import os
import re
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import click

from ..api import load_run
from ..errors import UserError
from ..evaluation.runner import identity_of
from ..evidence.records import Plan
from ..evidence.store import RunFile
from ..results.merging import joint_plan, joint_precisions, merge, searched_in
from ..results.tables import render
from .options import debug_option
from .terminal import echo


@click.command("merge")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run file to write; it must not exist.")
@click.option("--slim", is_flag=True, help="Leave the images out: small, but it cannot be verified.")
@debug_option
def command(runs: tuple[Path, ...], out: Path, slim: bool) -> None:
    """Take the worst per example of several runs of one model on one data set. The order does not matter.

    \b
    robench merge monday.robench tuesday.robench --out both.robench
    robench merge big.robench --slim --out small.robench
    """
    if os.path.lexists(out):
        raise UserError(f"{out} is there already; choose another --out")
    with ExitStack() as stack:
        files = [stack.enter_context(RunFile.read(path)) for path in runs]
        plans = [_plan(file) for file in files]
        for path, plan in zip(runs[1:], plans[1:], strict=True):
            _refuse_another(runs[0], plans[0], path, plan)
        evidences = [file.evidence() for file in files]
        merged = merge(evidences)
        plan = joint_plan(plans, merged.evidence)
        searched = [searched_in(*of) for of in zip(plans, evidences, strict=True)]
        told = merged.evidence.environment
        if len({*chain(*searched)}) > 1:
            told = told | {"precision": joint_precisions(told, searched)}
            listed = [f"{path} in {' and '.join(of)}" for path, of in zip(runs, searched, strict=True) if of]
            click.echo(f"note: searched in different precisions: {', '.join(listed)}", err=True)
        with RunFile.whole(out) as result, result.writing():
            result.put_plan(plan, without_folders(told) if slim else told)
            result.adopt(merged.evidence, merged.sources, [] if slim else files)
    echo(render([load_run(out)], intervals=True), nl=False)


def without_folders(told: Mapping[str, str]) -> dict[str, str]:
    """What a run tells of its making but for the folders of this machine, as a slim run is made to be handed on."""

    def shortened(word: str) -> str:
        return re.sub(r"(^|[=:])/.*/", r"\1", word)

    command = shlex.join(map(shortened, shlex.split(told.get("command", ""))))
    rest = {key: shortened(text) for key, text in told.items()}
    return rest | ({"command": command} if command else {})


def _plan(file: RunFile) -> Plan:
    plan = file.plan()
    if plan is None:
        raise UserError(f"{file.path} holds no plan yet: the run was stopped before it began; leave it out")
    return plan


def _refuse_another(first: Path, plan: Plan, path: Path, other: Plan) -> None:
    if not identity_of(plan.model).same_as(identity_of(other.model)):
        raise UserError(f"{path} is about another model ({other.model.name}) than {first} ({plan.model.name})")
    if plan.data != other.data:
        raise UserError(f"{path} is about {other.data}, {first} about {plan.data}; merge runs of the same data")
