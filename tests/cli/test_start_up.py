"""What does not need torch does not wait for it: help, lists, reports, and errors about missing files."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from robench.cli.main import COMMANDS
from robench.cli.offered import KINDS
from robench.results.tables import FORMS

ROOT = Path(__file__).parents[2]
RUN = min((ROOT / "reports" / "runs").glob("*.robench"), key=lambda path: path.stat().st_size)
SLOW = ("torch", "pandas", "scipy", "matplotlib", "numpy", "requests")
MISSING = {
    "evaluate": (
        *("evaluate nix.pt --data mnist", "evaluate nix", "evaluate digits-nat --data nix.npz"),
        *("evaluate digits-nat --data nix.npz:held-out", "evaluate digits-nat --data no/folder"),
        *("evaluate digits-nat --protocol nix.toml", "evaluate digits-nat --arch nix.py:build"),
        "evaluate digits-nat --attack 'nix.py:Mine(steps=5)'",
    ),
    "train": (
        "train nat --data nix.npz",
        "train nat --from nix.pt",
        "train rst --pseudo-labelled nix.npz",
        "train nat --arch nix.py:build",
    ),
    "report": ("report nix.robench", "report nix.json", f"report {RUN} --card nix.toml"),
    "leaderboard": ("leaderboard nix --out site", f"leaderboard {RUN} --out site --card nix.toml"),
    "figures": ("figures nix.robench --out pictures",),
    "export": ("export nix.robench --out adv.npz",),
    "verify": ("verify nix.robench", f"verify {RUN} --model nix.pt"),
    "claim": ("claim nix.pt adv.npz", "claim digits-nat nix.npz"),
    "submit": ("submit nix.robench --name one --by me",),
    "check": ("check nix.pt --baseline nix.json", "check digits-nat --baseline nix.json"),
    "merge": (f"merge {RUN} nix.robench --out both.robench",),
}

PROGRAM = """
import contextlib, io, json, sys
from robench.cli.main import main

loaded = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["robench", *words]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main()
    except SystemExit as end:
        loaded.append([end.code, out.getvalue(), sorted({name.partition(".")[0] for name in sys.modules})])
print(json.dumps(loaded))
"""


def modules_after(tmp_path: Path, *commands: str) -> list[tuple[int, str, set[str]]]:
    """Exit code, output and imported packages after each of these commands, typed one by one in a fresh process."""
    words = json.dumps([shlex.split(command) for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    return [(code, out, set(loaded)) for code, out, loaded in json.loads(done.stdout)]


@pytest.mark.processes
@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_no_slow_package(tmp_path, name):
    for code, out, loaded in modules_after(tmp_path, "--help", f"{name} --help"):
        assert (code, "Usage: robench" in out) == (0, True)
        assert loaded.isdisjoint(SLOW)


@pytest.mark.processes
@pytest.mark.parametrize("name", MISSING)
def test_a_missing_file_is_refused_before_a_slow_package_is_imported(tmp_path, name):
    for code, out, loaded in modules_after(tmp_path, *MISSING[name]):
        assert (code, out[:7], out.count("\n")) == (2, "Error: ", 1)
        assert "nix" in out or "no/folder" in out
        assert loaded.isdisjoint(SLOW), out


@pytest.mark.processes
@pytest.mark.parametrize("kind", KINDS)
def test_a_list_imports_no_slow_package(tmp_path, kind):
    commands = [f"list {kind}", f"list {kind} --format json", f"list {kind} -v", f"list {kind} nix"]
    for code, _, loaded in modules_after(tmp_path, *commands):
        assert code in (0, 2)
        assert loaded.isdisjoint(SLOW)


def test_showing_one_thing_imports_no_slow_package(tmp_path):
    commands = ["show pgd", "show digits-nat", "show standard", "show nix", "show pgd --format json"]
    for _, _, loaded in modules_after(tmp_path, *commands):
        assert loaded.isdisjoint(SLOW)


@pytest.mark.processes
@pytest.mark.parametrize("command", ["report", "merge"])
def test_reports_and_merges_do_not_import_torch(tmp_path, command):
    commands = {
        "report": [f"report {RUN} --format {form} --intervals" for form in FORMS],
        "merge": [f"merge {RUN} --out copy.robench", f"merge {RUN} --slim --out slim.robench"],
    }
    for code, out, loaded in modules_after(tmp_path, *commands[command]):
        assert code == 0, out
        assert "torch" not in loaded


@pytest.mark.processes
def test_that_check_sees_torch(tmp_path):
    ((_, _, loaded),) = modules_after(tmp_path, "list protocols quick -v --model digits-nat")
    assert "torch" in loaded
