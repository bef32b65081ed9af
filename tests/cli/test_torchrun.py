"""`torchrun -m robench train`: one model, one output, one exit."""

import os
import subprocess
import sys

import pytest

from robench.cli.ranks import refuse_copies
from robench.problem.checkpoints.cards import read_card


def torchrun(*words):
    """Two processes of that command."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "robench", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)


@pytest.mark.processes
def test_two_processes_train_one_model_and_the_first_alone_prints_and_evaluates(folder):
    words = ("--set", "steps=3", "--set", "batch=16", "--validation", "8", "--protocol", "clean", "--out", "m")
    result = torchrun("train", "nat", *words)
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert sum(line.startswith("held out: ") for line in lines) == 3, result.stderr
    assert sum(line.startswith("m.safetensors and m.toml are written") for line in lines) == 1
    assert result.stdout.count("| model ") == 1
    card = read_card(folder / "m.toml")
    assert card.command.startswith("torchrun --nproc-per-node 2 -m robench train nat ")
    assert card.settings["processes"] == 2
    assert not (folder / "m.training").exists()


@pytest.mark.parametrize(("words", "typed"), [(("evaluate", "digits-nat"), "`robench evaluate ... --workers 4`"),
                                             (("report", "run.robench"), "`robench report ...`")])  # fmt: skip
def test_commands_that_each_process_would_repeat_are_refused(refused, monkeypatch, words, typed):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    error = refused(*words)
    assert f"torchrun has started 4 processes, and each would run the same robench {words[0]}; type {typed}" in error


def test_help_shards_and_clusters_that_set_the_number_of_containers_are_not_refused():
    torchrun_sets = {"WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none"}
    refuse_copies(["evaluate", "--help"], torchrun_sets)
    refuse_copies(["evaluate", "digits-nat", "--shard=1/4"], torchrun_sets)
    refuse_copies(["train", "nat"], torchrun_sets)
    refuse_copies(["evaluate", "digits-nat"], {"WORLD_SIZE": "4", "RANK": "0"})
    refuse_copies(["evaluate", "digits-nat"], torchrun_sets | {"WORLD_SIZE": "1"})


def test_a_process_that_torchrun_has_not_started_is_refused(refused, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    error = refused("train", "nat")
    assert "WORLD_SIZE=2 stands for one of several processes, but RANK, " in error
