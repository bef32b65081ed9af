"""`robench merge`: several run files of one model as one file, with the worst outcome of each example."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import click

from ..errors import UserError
from ..evaluation.recorded import identity_of, recorded_plan, recorded_summary
from ..evidence.records import Plan, Shard
from ..evidence.store import RunFile
from ..results.merging import joint_plan, joint_precisions, merge, searched_in
from ..results.outcomes import Outcome
from ..results.summary import Summary
from ..results.tables import render
from .terminal import echo


def run(runs: tuple[Path, ...], out: Path, slim: bool, compress: bool) -> None:
    """Runs the command; commands/merge.py documents its options."""
    if os.path.lexists(out):
        raise UserError(f"{out} exists already; choose another --out")
    with ExitStack() as stack:
        files = [stack.enter_context(RunFile.read(path)) for path in runs]
        plans = [recorded_plan(file, hint="leave it out") for file in files]
        for path, plan in zip(runs[1:], plans[1:], strict=True):
            _refuse_another(runs[0], plans[0], path, plan)
        searched = write_joint(out, files, plans, slim=slim, compressed=compress)
    if len({*chain(*searched)}) > 1:
        listed = [f"{path} in {' and '.join(of)}" for path, of in zip(runs, searched, strict=True) if of]
        click.echo(f"note: searched in different precisions: {', '.join(listed)}", err=True)
    summary = recorded_summary(out)
    for sentence in missing_shards(runs, plans, summary):
        click.echo(f"note: {sentence}", err=True)
    echo(render([summary], intervals=True), nl=False)


def missing_shards(runs: Sequence[Path], plans: Sequence[Plan], joint: Summary) -> Iterator[str]:
    """Sentences on the shards without which examples of the joint run are open; none where other runs searched them.

    None either where the runs answer different questions, as each lacks what the others planned.
    """
    if len({(plan.examples, plan.threats) for plan in plans}) > 1:
        return
    opened = {place for place, letter in enumerate(joint.union.outcomes) if letter == Outcome.OPEN}
    total = len(joint.union.outcomes)
    given = {shard: path for path, plan in zip(runs, plans, strict=True) for shard in plan.shards}
    for count in sorted({shard.count for shard in given}):
        for shard in (Shard(index, count) for index in range(1, count + 1)):
            left = len(opened.intersection(shard.places(total)))
            if left and shard in given:
                yield (
                    f"shard {shard} is not finished: {left} of {total} examples are open; type its command again for"
                    f" {given[shard]}, and merge again into another file"
                )
            elif left:
                yield f"shard {shard} is missing: {left} of {total} examples have no outcome"


def write_joint(
    out: Path,
    files: Sequence[RunFile],
    plans: Sequence[Plan],
    *,
    slim: bool = False,
    shared: bool = False,
    compressed: bool = False,
) -> list[tuple[str, ...]]:
    """Writes the runs of one model as one file. The result is the precisions in which each was searched.

    A `slim` file has no images. It and one that is to be `shared` have no folders of this machine.
    """
    merged = merge([file.evidence() for file in files])
    searched = [
        searched_in(plan, file.environment(), any_search=file.is_searched())
        for plan, file in zip(plans, files, strict=True)
    ]
    environment = merged.evidence.environment
    if len({*chain(*searched)}) > 1:
        environment = environment | {"precision": joint_precisions(environment, searched)}
    if slim or shared:
        environment = shareable(environment)
    with RunFile.whole(out, compressed=compressed) as result, result.writing():
        result.put_plan(joint_plan(plans, merged.evidence), environment)
        result.adopt(merged.evidence, merged.sources, [] if slim else files)
    return searched


def without_folders(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run without folders of this machine, as a slim run is meant to be shared."""

    def shortened(word: str) -> str:
        return re.sub(r"(^|[=:])/.*/", r"\1", word)

    command = shlex.join(map(shortened, shlex.split(environment.get("command", ""))))
    rest = {key: shortened(text) for key, text in environment.items()}
    return rest | ({"command": command} if command else {})


def shareable(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of any run without folders of a machine, and without a command that no shell would read."""
    try:
        return without_folders(environment)
    except ValueError:
        return without_folders({key: text for key, text in environment.items() if key != "command"})


def _refuse_another(first: Path, plan: Plan, path: Path, other: Plan) -> None:
    if not identity_of(plan.model).same_as(identity_of(other.model)):
        raise UserError(f"{path} is about another model ({other.model.name}) than {first} ({plan.model.name})")
    if plan.data != other.data:
        raise UserError(f"{path} is about {other.data}, {first} about {plan.data}; merge runs of the same data")
