"""kill -9 at random moments: the same table in the end, and nothing that was finished is done again."""

import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.precision
ROOT = Path(__file__).parents[2]
PROTOCOL = """
[[threat]]
threat = "linf:0.15"
attacks = [
    { attack = "pgd", label = "still", steps = 20, random_start = false },
    { attack = "pgd", label = "random", steps = 30, restarts = 2 },
]

[[threat]]
threat = "l2:1.5"
attacks = [{ attack = "pgd", label = "random", steps = 30, restarts = 2 }]
"""


def killed(folder, moments, *words):
    """What came of an undisturbed start and of each that was killed at such a share of its time, and both summaries.

    The last start finishes.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    program = sys.executable, "-W", "ignore", "-m", "tests.cli.killing"
    done = subprocess.run(
        [*program, json.dumps(moments), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    whole, *sittings = (json.loads(line) for line in done.stdout.splitlines())
    summaries = (json.loads((folder / f"{name}.json").read_text()) for name in ("whole", "killed"))
    return whole, sittings, *summaries


def tuples(rows):
    return {tuple(row) for row in rows}


@pytest.mark.processes
def test_a_run_killed_at_twenty_random_moments_ends_in_the_same_table(folder, robench):
    (folder / "kill.toml").write_text(PROTOCOL)
    noise = random.Random(0)
    # Early ones strike before and while the file is begun, later ones in the midst of the work.
    moments = [noise.random() * early for early in [1 / 20] * 6 + [1 / 7] * 14]
    noise.shuffle(moments)
    words = shlex.split("evaluate digits-adv-linf --protocol kill.toml --examples 100")
    whole, sittings, undisturbed, disturbed = killed(folder, moments, *words)

    assert sum(not sitting["over"] for sitting in sittings) >= 10, "it must be killed at work, or this says little"
    for threat, other in zip(undisturbed["threats"], disturbed["threats"], strict=True):
        assert threat["outcomes"] == other["outcomes"]
        assert min(threat["broken"], threat["standing"]) >= 5
        assert threat["rejected"] == other["rejected"]
    assert undisturbed["union"] == disturbed["union"]

    finished, lost = set(), 0
    for sitting in sittings:
        searched, exhausted = tuples(sitting["searched"]), tuples(sitting["spent"])
        broken = tuples(sitting["broken"])
        assert not searched & finished, "what was finished was done again"
        gone = {item for item in searched if item not in exhausted and (item[0], item[2]) not in broken}
        lost += len(gone)
        finished = exhausted
        claims = [tuple(claim) for claim in sitting["claims"]]
        assert len(claims) == len(set(claims)), "a find was written down twice"
    assert not gone
    # Nothing lost is paid for, and what is there was paid for once.
    assert disturbed["cost"]["forwards"] == pytest.approx(undisturbed["cost"]["forwards"], rel=0.02)
    assert tuples(sittings[-1]["spent"]) == tuples(whole["spent"])
    assert lost > 0, "some work was not yet written down when it was killed"

    assert not list(folder.glob("killed.robench-*")), "one file remains"
    assert robench("verify", "killed.robench").code == 0
    assert robench("report", "killed.robench").out == robench("report", "whole.robench").out
