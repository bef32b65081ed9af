"""The command line, called as `robench` calls it, in a folder of its own."""

import shutil
import signal
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from robench.cli.main import main
from robench.evaluation import prepared
from robench.evidence import store

PROTOCOL = """
name = "tiny"
examples = 12

[[threat]]
threat = "linf:0.1"
attacks = [
    { attack = "pgd", label = "quick", steps = 3, random_start = false },
    { attack = "pgd", label = "random", steps = 4, restarts = 2 },
]

[[threat]]
threat = "l2:1"
attacks = [{ attack = "pgd", label = "quick", steps = 3, random_start = false }]
"""


@dataclass(frozen=True)
class CommandResult:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Few slots, a short wait for locks, and the previous signal handlers."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(prepared, "SLOTS", {"cpu": 8, "cuda": 8})
    monkeypatch.setattr(store, "PATIENCE", 0.05)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with tiny.toml in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(PROTOCOL)
    return tmp_path


@pytest.fixture
def robench(folder, monkeypatch, capsys):
    """`robench("list", "attacks")` is that command."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["robench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return CommandResult(ended.value.code, out, err)

    return call


@pytest.fixture
def refused(folder, robench):
    """`refused("list", "atacks")` returns the one line of its error; nothing was written."""

    def call(*words):
        before = files(folder)
        result = robench(*words)
        lines = [line for line in result.err.splitlines() if not line.startswith("note: ")]
        assert result.code == 2, result
        assert result.out == ""
        assert len(lines) == 1, result.err
        assert lines[0].startswith("Error: ")
        assert "Traceback" not in result.err
        assert "this is a bug" not in result.err
        assert files(folder) == before
        return lines[0]

    return call


def files(folder):
    """Every file below the folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run_once(*words, slots=8, **environment):
    """A command of a fixture for the whole session; it has to succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "SLOTS", {"cpu": slots, "cuda": slots})
        patch.setattr(sys, "argv", ["robench", *map(str, words)])
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, words


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """A finished run of a bundled model, to copy from."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "tiny.toml").write_text(PROTOCOL)
    words = "evaluate", "digits-nat", "--protocol", folder / "tiny.toml", "--quiet"
    run_once(*words, "--run", folder / "r.robench", "--json", folder / "s.json")
    return folder


@pytest.fixture(scope="session")
def measured_too(measured):
    """Finished runs of other bundled models on the same question, beside it: NAME.robench and NAME.json."""
    for name in ("digits-adv-linf", "digits-adv-l1"):
        words = "evaluate", name, "--protocol", measured / "tiny.toml", "--quiet"
        run_once(*words, "--run", measured / f"{name}.robench", "--json", measured / f"{name}.json")
    return measured


@pytest.fixture
def run(folder, measured):
    """A finished run: r.robench, with its summary in s.json."""
    for name in ("r.robench", "s.json"):
        shutil.copy(measured / name, folder / name)
    return folder / "r.robench"


@pytest.fixture
def images(folder):
    """Ten colour images in images.npz, for what needs data of one's own."""
    x = np.random.default_rng(0).random((10, 3, 12, 12), dtype=np.float32)
    np.savez(folder / "images.npz", x=x, y=np.arange(10) % 4)
    return folder / "images.npz"
