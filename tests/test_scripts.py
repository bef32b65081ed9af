"""What people type in a checkout: every script prints help before it does anything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path
    for folder in ("benchmarks", "reports", "scripts")
    for path in (ROOT / folder).glob("*.py")
    if "__main__" in path.read_text()
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_reads_its_arguments_with_a_parser(path):
    assert "parse_args(" in path.read_text()


@pytest.mark.costly
def test_help_of_regenerate_prints_help_and_makes_nothing():
    done = subprocess.run(
        [sys.executable, "reports/regenerate.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: regenerate.py")
    assert done.stderr == ""  # every command that it runs is named there
