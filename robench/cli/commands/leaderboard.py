"""`robench leaderboard`: its options and its help."""

from typing import Any

import click

from .. import existing
from ..options import NamedPath, debug_option, submission_options


@click.command("leaderboard")
@click.argument("runs", nargs=-1, required=True, metavar="RUN|FOLDER...", type=NamedPath())
@click.option("--out", metavar="DIR", type=NamedPath(), help="Folder for the site.")
@click.option(
    "--json", "json_folder", metavar="DIR", type=NamedPath(), help="Folder for the data alone, a file per data set."
)
@click.option(
    "--check", metavar="DIR", type=NamedPath(), help="Exit 1 when the JSON files in DIR differ from the runs."
)
@click.option("--serve", is_flag=True, help="Show the site at an address of this machine, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port of --serve.")
@click.option(
    "--card",
    "cards",
    multiple=True,
    metavar="FILE.toml",
    type=NamedPath(),
    help="A model's card, for recipe and minutes; bundled ones are known. Repeatable.",
)
@click.option(
    "--images",
    type=click.IntRange(0, 10_000),
    default=100,
    show_default=True,
    help="Show the images of the first N examples of each table; 0 for none.",
)
@click.option("--no-runs", is_flag=True, help="Leave the run files to download out of the site.")
@click.option("--url", metavar="URL", default="", help="Address at which the site will stand, for feed and badges.")
@submission_options
@debug_option
def command(**options: Any) -> int:
    """Build a site with a table per data set, set of examples and set of threats. The same runs give the same bytes.

    FOLDER stands for every run file below it. All evidence of a model on a data set counts in each of its tables.

    \b
    robench leaderboard runs --out site
    robench leaderboard runs --out site --serve
    robench leaderboard reports/runs --check reports/leaderboard
    robench leaderboard reports/runs --submissions reports/submissions --check reports/leaderboard
    """
    existing.refuse_missing(options, runs=options["runs"])
    from ..leaderboard import run

    return run(**options)
