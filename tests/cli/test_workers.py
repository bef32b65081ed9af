"""`robench evaluate --workers`: processes that search, and that end with the command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from robench.errors import UserError
from robench.evaluation.recorded import recorded_summary
from robench.evidence.store import RunFile
from robench.problem import checkpoints

NET = """
import time
from pathlib import Path
from robench.problem.architectures.digits_cnn import DigitsCNN


class Net(DigitsCNN):
    def forward(self, x):
        if Path("slow").exists():
            time.sleep(0.1)
        return super().forward(x)
"""
SEARCH = ["--threat", "linf:0.1", "--examples", "12", "--attack", "pgd(steps=1)", "--attack", "apgd(steps=500)"]


def found(path, copies):
    """The number of finds and exhausted searches in a run file in use, of which a copy can be read."""
    if not path.exists():
        return 0
    copies.mkdir(exist_ok=True)
    for part in path.parent.glob(f"{path.name}*"):
        shutil.copy(part, copies)
    try:
        with RunFile.read(copies / path.name) as run:
            evidence = run.evidence()
    except UserError:  # it was copied between two steps of a commit
        return 0
    return len(evidence.claims) + len(evidence.exhausted)


def children(pid):
    """The processes that this one has started and that are still there."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(child) for child in listed.stdout.split()]


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def slow_network(folder):
    """A checkpoint of digits-adv-linf whose network waits at each query while a file named slow is there."""
    torch.save(checkpoints.load("digits-adv-linf").classifier.module.state_dict(), folder / "net.pt")
    (folder / "net.py").write_text(NET)
    (folder / "slow").touch()
    return "net.pt", "--arch", "net.py:Net", "--data", "digits", "--normalise", "none"


@pytest.mark.processes
def test_a_driver_killed_with_its_workers_at_work_is_restarted_to_the_same_outcomes(robench, folder, slow_network):
    command = ["evaluate", *slow_network, *SEARCH, "--run", "r.robench", "--json", "r.json", "--workers", "2"]
    with subprocess.Popen([sys.executable, "-m", "robench", *command], stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 300
        while (
            not found(folder / "r.robench", folder / "copies") and driver.poll() is None and time.monotonic() < deadline
        ):
            time.sleep(0.2)
        workers = children(driver.pid)
        assert driver.poll() is None
        driver.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 120
    while any(map(running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(running, workers))
    with RunFile.read(folder / "r.robench") as run:
        assert recorded_summary(folder / "r.robench").union.open > 0
        assert run.evidence().claims or run.evidence().exhausted
    (folder / "slow").unlink()
    assert robench(*command).code == 0
    assert robench("evaluate", *slow_network, *SEARCH, "--run", "one.robench", "--json", "one.json").code == 0
    letters = [
        [t["outcomes"] for t in json.loads((folder / name).read_text())["threats"]] for name in ("r.json", "one.json")
    ]
    assert letters[0] == letters[1]


@pytest.mark.parametrize("count", ["0", "-1", "257"])
def test_a_number_of_workers_out_of_range_is_refused(refused, count):
    assert f"--workers {count} is out of range" in refused("evaluate", "digits-nat", "--workers", count)


def test_an_attack_of_ones_own_is_not_sent_to_workers(robench, folder):
    (folder / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from robench.attacks import PGD\n\n\n"
        "@dataclass(frozen=True)\nclass Mine(PGD):\n    name = 'mine'\n"
    )
    result = robench(
        "evaluate",
        "digits-nat",
        "--threat",
        "linf:0.1",
        "--attack",
        "mine.py:Mine",
        "--examples",
        "4",
        "--workers",
        "1",
    )
    assert result.code == 2
    assert "cannot be sent to other processes" in result.err
    assert "leave --workers out, or use --shard" in result.err


def test_options_of_ray_that_do_not_fit_are_refused(refused):
    call = ("evaluate", "digits-nat")
    assert "--ray 10.0.0.5:6379 needs the number of workers; add --workers N" in refused(
        *call, "--ray", "10.0.0.5:6379"
    )
    assert "leave it out, or add --ray ADDRESS" in refused(*call, "--workers", "2", "--ray-gpus", "0.5")
    assert "--ray-gpus 2.0 is no share of a GPU" in refused(*call, "--workers", 2, "--ray", "a:1", "--ray-gpus", "2")


def test_without_ray_the_option_says_how_to_get_it(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "robench.evaluation.workers.ray_actors", raising=False)
    error = refused("evaluate", "digits-nat", "--workers", "2", "--ray", "10.0.0.5:6379")
    assert "pip install 'robench[ray]'" in error
