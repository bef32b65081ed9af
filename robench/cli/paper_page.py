"""`robench reproduce --page`: the page of a paper, from runs that are there."""

import shlex
from pathlib import Path

from ..errors import UserError
from ..problem import durable
from ..problem.checkpoints.cards import read_card
from ..problem.checkpoints.zoo import zoo_card, zoo_names
from ..reproduction import Measured, Paper, PaperTable, plans
from ..reproduction.comparison import Kind
from ..reproduction.course import course
from ..reproduction.paper_page import paper_page
from ..results.figures import Picture, image_bytes
from ..results.summary import Summary
from ..results.tables import Origin
from .report import checked, origin, read_summaries
from .terminal import echo


def run(name: str, runs: Path, page: Path | None, check: Path | None) -> int:
    """Writes the page and the pictures beside it, or compares them; the exit code."""
    paper = plans.read(name)
    if not runs.is_dir():
        raise UserError(f"{runs} is no folder; name that of the run files with --runs")
    file = page or check
    assert file is not None, "one of them is given"
    found = {table.name: [_kind(table, measured, runs) for measured in table.measured] for table in paper.table}
    command = shlex.join(["robench", "reproduce", name, "--runs", str(runs), "--page", str(file)])
    lacking = {f.course for f in paper.figure if f.course and not (runs / f.course).is_file()}
    text = paper_page(name, paper, found, command, lacking)
    pictures = _pictures(paper, runs)
    if check is not None:
        for picture in pictures:
            if not (check.parent / f"{picture.name}.svg").is_file():
                raise UserError(f"{check.parent / picture.name}.svg is missing; write it with {command}")
        return checked(check, text, f"write it first, with {command}")
    for picture in pictures:
        durable.replace(file.parent / f"{picture.name}.svg", image_bytes(picture, "svg"))
    durable.replace(file, text.encode())
    echo(f"{file} is written", err=True)
    return 0


def _kind(table: PaperTable, measured: Measured, runs: Path) -> Kind:
    """The models of one kind, read from their runs, and the commands of those that lack one."""
    summaries: dict[str, Summary] = {}
    origins: dict[str, Origin] = {}
    missing: dict[str, str] = {}
    for model in table.models:
        short = measured.models.get(model.name, model.name)
        if not short:
            continue  # the paper's model has no counterpart of this kind
        named, run = measured.zoo.format(model=short), runs / measured.runs.format(model=short)
        if run.is_file():
            summary = _summary(run, named, table)
            summaries[model.name] = summary
            if named in zoo_names():
                origins[named] = origin(read_card(zoo_card(named)))
        elif measured.size:
            size = table.sized(measured.size)
            if named not in zoo_names():
                words = plans.training(model, size, named)
            else:
                words = ["evaluate", named, *plans.evaluation(size, run)]
            missing[model.name] = shlex.join(["robench", *words])
    afterwards = ""
    if measured.size:
        size, run = table.sized(measured.size), runs / measured.runs.format(model="NAME")
        words = ["evaluate", f"{measured.zoo.format(model='NAME')}.safetensors", "--data", size.data]
        afterwards = shlex.join(["robench", *words, *plans.evaluation(size, run)])
    return Kind(measured, summaries, origins, missing, afterwards)


def _summary(run: Path, named: str, table: PaperTable) -> Summary:
    """The summary of a run. Raises UserError if it is about another model, or lacks a threat of the table."""
    summary = read_summaries(run)[-1]
    if summary.model.name != named:
        raise UserError(f"{run} is about {summary.model.name}, not {named}; give it the name of its model")
    if lacking := [t for t in table.threats if t not in [entry.threat for entry in summary.threats]]:
        raise UserError(f"{run} has no result under {', '.join(lacking)}, a threat of table {table.name}; add it")
    return summary


def _pictures(paper: Paper, runs: Path) -> list[Picture]:
    """The pictures that are drawn from summaries."""
    with_course = [figure for figure in paper.figure if figure.course]
    return [
        course(read_summaries(runs / figure.course), Path(next(iter(figure.pictures))).stem)
        for figure in with_course
        if (runs / figure.course).is_file()
    ]
