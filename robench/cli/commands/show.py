"""`robench show`: its options and its help."""

from typing import Any

import click

from ..options import debug_option


@click.command("show")
@click.argument("name")
@click.option("--format", "form", default="text", show_default=True, metavar="text|json", help="Format of the text.")
@debug_option
def command(**options: Any) -> None:
    """Show one attack, threat, protocol, recipe, data set, model or architecture in full.

    What it is, its source, its settings with defaults and ranges, and a command that uses it. A name that several kinds
    share shows all of them.

    \b
    robench show pgd
    robench show standard-mnist
    robench show digits-adv-linf --format json
    """
    from ..showing import run

    run(**options)
