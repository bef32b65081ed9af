"""One of every record, odd numbers included, and processes that leave a run file behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from robench.evidence.records import (
    Claim,
    Clean,
    Effort,
    Evidence,
    Exhausted,
    Failure,
    MaskingDepth,
    MaskingState,
    ModelRecord,
    Nearest,
    PassedOver,
    Plan,
    PlannedAttack,
    PlannedThreat,
    Probe,
    Verdict,
)

ROOT = Path(__file__).parents[2]
NAN, INF = float("nan"), float("inf")
SHAPE = (1, 2, 3)
PLAN = Plan(
    model=ModelRecord("net", "5eed" * 16, "small", "0.5/0.5", (0.1, -2.5e-8)),
    data="toy:test",
    data_sha256="da7a" * 16,
    examples=(7, 3, 9),
    protocol="tiny",
    seed=2**32 - 1,
    every_attack=True,
    threats=(PlannedThreat("linf:8/255", (PlannedAttack("pgd", "pgd(steps=4)", 3),)), PlannedThreat("l2:2", ())),
    device="cpu",
    threads=1,
    precision="float32",
    slots=8,
)
EVIDENCE = Evidence(
    clean=(Clean(3, "a", True, -1.5), Clean(7, "b", False, 0.0, tied=True), Clean(9, "ß", False, NAN)),
    claims=(
        Claim(1, 3, "linf:8/255", "pgd(steps=4)", 0, -1, 5, 5),
        Claim(2, 3, "linf:8/255", "pgd(steps=4)", 1 << 20, 4, 2**40, 0),
        Claim(5, 7, "l2:2", "it's(a='\"')", 0, -1, 1, 1),
    ),
    verdicts=(
        Verdict(1, True, "", "", 0.03137255, 0.1 + 0.2),
        Verdict(2, False, "not finite", "has pixels that are not finite", NAN, NAN),
        Verdict(5, False, "outside", "lies at inf, outside l2:2", INF, -INF, passes=100),
    ),
    exhausted=(
        Exhausted(3, "l2:2", "pgd(steps=4)", 0b101, 10, 9),
        Exhausted(7, "l2:2", "pgd(steps=4)", 1 << 200 | 1, 0, 2**50),
    ),
    failures=(Failure(9, "l2:2", "pgd(steps=4)", "RuntimeError: a\nb \x00 c"),),
    efforts=(Effort("l2:2", "pgd(steps=4)", 1e-9),),
    probes=(Probe("l2:2", 3, "nan", NAN),),
    masking=(
        MaskingState(
            *("l2:2", MaskingDepth.DEEP, MaskingDepth.ON),
            sampled=(3, 7),
            assigned=(("pointwise(queries_per_step=4)", MaskingDepth.ON), ("square(steps=4)", MaskingDepth.DEEP)),
            widened=MaskingDepth.ON,
        ),
    ),
    nearest=(Nearest(3, "l2:2", 0.1 + 0.2), Nearest(9, "l2:2", 0.0)),
    passed_over=(
        PassedOver(3, "l2:2", "pgd(steps=4)", "near", 0.1 + 0.2),
        PassedOver(7, "l2:2", "pgd(steps=4)", "sample", 12.0),
    ),
    environment={"torch": "2.6", "where": "ｆｕｌｌ"},
)


def image(level=0.25, shape=SHAPE):
    return np.full(shape, level, dtype=np.float32)


def fill(run):
    """Everything above, in one transaction."""
    with run.writing():
        run.put_plan(PLAN, EVIDENCE.environment)
        run.put_clean(EVIDENCE.clean)
        for claim, verdict in EVIDENCE.judged():
            run.put_judged(claim, verdict, image())
        run.put_exhausted(EVIDENCE.exhausted)
        run.put_failures(EVIDENCE.failures)
        run.put_effort(EVIDENCE.efforts)
        run.put_probes(EVIDENCE.probes)
        run.put_masking(EVIDENCE.masking)
        run.put_rounds([*EVIDENCE.nearest, *EVIDENCE.passed_over])


def beside(path):
    """The names of all files in the folder, and what is in them."""
    return {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()}


def elsewhere(code, *arguments):
    """Another process that runs `code` with `run` opened on the first argument. It is told to wait by `input()`."""
    program = f"""
import os, sys
from pathlib import Path
from robench.evidence.records import *
from robench.evidence.store import RunFile
from tests.evidence.records import *
run = RunFile.open(Path(sys.argv[1]))
{code}
"""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])  # a test may have left the root
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def killed(code, path):
    """Leaves the file as a process does that is killed after `code`."""
    process = elsewhere(f"{code}\nos.kill(os.getpid(), {signal.SIGKILL:d})", path)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
