"""`robench doctor`: what is installed, and whether its attacks find what is known to be there."""

import torch

from ..doctor import installed
from ..doctor.attacks import attacks_under_test
from ..doctor.cases import cases
from ..doctor.checks import check
from ..doctor.report import CheckedAttack, markdown
from ..evaluation.environment import pick_device
from .terminal import echo


def run(attacks: tuple[str, ...], device: str, quiet: bool) -> int:
    """Runs the command; commands/doctor.py documents its options."""
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
