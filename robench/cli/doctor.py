"""`robench doctor`: what is installed, and whether its attacks find what is known to be there."""

import click
import torch

from ..doctor import installed
from ..doctor.attacks import attacks_under_test
from ..doctor.cases import cases
from ..doctor.checks import check
from ..doctor.report import CheckedAttack, markdown
from ..evaluation.environment import pick_device
from .options import debug_option
from .terminal import echo


@click.command("doctor")
@click.option("--attack", "attacks", multiple=True, metavar="ATTACK", help="Only this attack or library; repeatable.")
@click.option("--device", default="cpu", show_default=True, help="Where the attacks run: cpu, cuda, or cuda:1.")
@click.option("--quiet", is_flag=True, help="Print only the result.")
@debug_option
def command(attacks: tuple[str, ...], device: str, quiet: bool) -> int:
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
    torch.set_num_threads(1)  # the models are tiny
    of_doctor = cases(pick_device(device))
    libraries = installed.libraries()
    checked = []
    every = attacks_under_test(attacks, [library.name for library in libraries if library])
    for number, tested in enumerate(every, start=1):
        result = CheckedAttack(tested, tuple(check(tested, of_doctor)))
        checked.append(result)
        if not quiet:
            fails = ", ".join(failed.case for failed in result.failed)
            verdict = f"fails in {fails}" if fails else "ok"
            echo(f"[{number}/{len(every)}] {tested.name}, {tested.threat}: {verdict}", err=True)
    echo(markdown(checked, of_doctor, libraries, installed.data_sets(), installed.robench()), nl=False)
    return 1 if any(one.failed and (one.tested.ours or one.tested.users) for one in checked) else 0
