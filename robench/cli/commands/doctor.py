"""`robench doctor`: its options and its help."""

from typing import Any

import click

from ..options import debug_option


@click.command("doctor")
@click.option("--attack", "attacks", multiple=True, metavar="ATTACK", help="Only this attack or library; repeatable.")
@click.option("--device", default="cpu", show_default=True, help="Where the attacks run: cpu, cuda, or cuda:1.")
@click.option("--quiet", is_flag=True, help="Print only the result.")
@debug_option
def command(**options: Any) -> int:
    """List the installed libraries and data sets, and check the attacks on models with a known answer.

    Runs every attack of robench and of the installed libraries. Prints Markdown; takes some minutes. An attack of
    your own, --attack file.py:Class, is also checked against the contract of robench's attacks; this runs its code.
    Exit 1 when one of robench's own attacks fails, or one of yours.

    \b
    robench doctor > conformance.md
    robench doctor --device cuda
    robench doctor --attack pgd --attack 'foolbox:DDNAttack(steps=20)'
    robench doctor --attack 'my_attack.py:MyAttack(steps=50)'
    """
    from ..doctor import run

    return run(**options)
