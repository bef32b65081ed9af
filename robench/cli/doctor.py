"""`robench doctor`: what is installed, and whether its attacks are what they claim to be."""

import click
import torch

from ..doctor import installed
from ..doctor.attacks import attacks_under_test
from ..doctor.cases import cases
from ..doctor.checks import check
from ..doctor.report import Examined, markdown
from .options import debug_option
from .terminal import echo


@click.command("doctor")
@click.option("--attack", "attacks", multiple=True, metavar="ATTACK", help="Only this attack or library; repeatable.")
@click.option("--quiet", is_flag=True, help="Print the result alone.")
@debug_option
def command(attacks: tuple[str, ...], quiet: bool) -> int:
    """Which libraries and data sets are here, and whether attacks find what is known to be there.

    Every attack of robench and of the libraries that are installed meets models on which the right answer is known.
    Prints Markdown; takes some minutes. Exit 1 when an attack of robench's own, or one of yours, fails. An attack of
    yours, --attack file.py:Class, is also held to the contract of robench's attacks; its code runs.

    \b
    robench doctor > conformance.md
    robench doctor --attack pgd --attack 'foolbox:DDNAttack(steps=20)'
    robench doctor --attack 'my_attack.py:MyAttack(steps=50)'
    """
    torch.set_num_threads(1)  # the models are tiny
    libraries = installed.libraries()
    checkd = []
    every = attacks_under_test(attacks, [library.name for library in libraries if library])
    for number, tested in enumerate(every, start=1):
        found = Examined(tested, tuple(check(tested, cases())))
        checkd.append(found)
        if not quiet:
            fails = ", ".join(finding.case for finding in found.failed)
            verdict = f"fails in {fails}" if fails else "ok"
            echo(f"[{number}/{len(every)}] {tested.name}, {tested.threat}: {verdict}", err=True)
    echo(markdown(checkd, cases(), libraries, installed.data_sets(), installed.robench()), nl=False)
    return 1 if any(one.failed and (one.tested.ours or one.tested.users) for one in checkd) else 0
