"""`robench evaluate` on the program of a stranger that does what it must not: one line, and nothing happened."""

import os
import subprocess
import sys

import pytest

from robench.problem.checkpoints.confinement import process

from ..problem.confining import ALLOCATING, HARMFUL, LOOPING, scripted
from .conftest import files

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines a process"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

WORDS = "evaluate", "m.pt", "--data", "digits", "--examples", "4", "--device", "cpu"
NO_MEMORY = "can't allocate memory"
DEEP = "".join("  " * i + f"if x.dim() > {i}:\n" for i in range(90)) + "  " * 90 + "x = x + 1\nreturn x.flatten(1)"
PROGRAMS = {
    "reads": ("aten::from_file in", HARMFUL["reads a file"]),
    "writes": ("aten::from_file in", HARMFUL["writes a file"]),
    "allocates without end": (NO_MEMORY, ALLOCATING),
    "loops": ("gave no answer", LOOPING),
    "nests too deep": ("nests blocks more than 64 deep", DEEP),
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_the_command_ends_with_one_line_and_nothing_happened(what, folder, robench, monkeypatch):
    words, body = PROGRAMS[what]
    monkeypatch.setenv(process.VARIABLE, "1" if what == "loops" else "60")
    (folder / "m.pt").write_bytes(scripted(body))
    before = files(folder)
    result = robench(*WORDS)
    assert (result.code, result.out) == (2, ""), result.err
    (line,) = result.err.splitlines()
    assert words in line
    assert files(folder) == before


@pytest.mark.processes
def test_the_installed_command_does_so_in_real_processes(tmp_path):
    (tmp_path / "m.pt").write_bytes(scripted(ALLOCATING))
    command = [sys.executable, "-m", "robench", *WORDS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert NO_MEMORY in line
    assert os.listdir(tmp_path) == ["m.pt"]
