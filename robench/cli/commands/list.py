"""`robench list`: its options and its help."""

from typing import Any

import click

from ..options import debug_option

KINDS = "attacks|threats|protocols|recipes|data|models|architectures"


@click.command("list")
@click.argument("kind", metavar=KINDS)
@click.argument("only", metavar="[NAME]", required=False)
@click.option("--format", "form", default="table", show_default=True, metavar="table|json", help="Format of the list.")
@click.option("-v", "--verbose", is_flag=True, help="With protocols and models: all their settings.")
@click.option("--model", metavar="NAME|FILE", help="With protocols -v: estimate their cost for this model.")
@debug_option
def command(**options: Any) -> None:
    """List what robench offers, with its source. `robench show NAME` shows one of them in full.

    On a terminal the columns fit its width; elsewhere each row is one line.

    \b
    robench list attacks
    robench list recipes --format json
    robench list protocols -v
    robench list protocols tramer2019-mnist-lp -v --model mnist-adv-linf
    """
    from ..listing import run

    run(**options)
