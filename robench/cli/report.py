"""`robench report`: tables of run files."""

from pathlib import Path

import click

from .. import __version__
from ..errors import UserError
from ..evidence.store import RunFile
from ..results.summary import Summary, summarise
from ..results.tables import FORMS, render
from .options import debug_option


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "form", default="markdown", show_default=True, metavar="|".join(FORMS), help="Of the report.")
@click.option("--breakdown", is_flag=True, help="Add the table of attacks.")
@click.option("--intervals", is_flag=True, help="Add 95 % intervals.")
@debug_option
def command(runs: tuple[Path, ...], form: str, breakdown: bool, intervals: bool) -> None:
    """Print the tables of one or more run files. It only reads: the same files give the same bytes.

    \b
    robench report runs/digits-adv-linf-*.robench --breakdown
    robench report runs/*.robench --format csv
    """
    click.echo(render([read_summary(path) for path in runs], form, intervals=intervals, attacks=breakdown), nl=False)


def read_summary(path: Path) -> Summary:
    """The summary of the last question that was asked into a run file."""
    with RunFile.read(path) as run:
        plan = run.plan()
        if plan is None:
            raise UserError(f"{path} holds no plan yet: the run was stopped before it began; start it again")
        return summarise(plan, run.evidence(), __version__)
