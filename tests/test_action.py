"""action.yml: what GitHub would run, run here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from robench.cli.main import robench

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
HOSTILE = "$(touch pwned) `touch pwned`\"; touch pwned; '"
STUB = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word" >> words.txt; done
exit ${CODE:-0}
"""


def filled(text, inputs):
    """An expression of the action with its inputs put in, as GitHub does before a step runs."""
    values = {name: entry.get("default", "") for name, entry in ACTION["inputs"].items()} | inputs
    known = {f"inputs.{name}": value for name, value in values.items()} | {"github.action_path": str(ROOT)}
    return re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda match: known[match[1]], text)


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """Runs the script of a step in a folder of its own, as GitHub's runner does; PATH begins with bin/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()

    def run(name, stubs=("robench", "python"), code=0, **inputs):
        for stub in stubs:
            (tmp_path / "bin" / stub).write_text(STUB)
            (tmp_path / "bin" / stub).chmod(0o755)
        step = STEPS[name]
        inputs = {key.replace("_", "-"): value for key, value in inputs.items()}
        environment = {key: filled(value, inputs) for key, value in step["env"].items()}
        path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        places = {"GITHUB_OUTPUT": "output.txt", "GITHUB_STEP_SUMMARY": "summary.md", "CODE": str(code)}
        (tmp_path / "step.sh").write_text(step["run"])
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "step.sh"],
            env={**os.environ, **environment, **places, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def words():
    return Path("words.txt").read_text().splitlines()


def test_no_script_has_an_expression_in_its_text():
    scripts = [step["run"] for step in STEPS.values() if "run" in step]
    assert len(scripts) == 2
    assert not any("${{" in script for script in scripts)


def test_every_input_is_used_and_every_one_used_is_declared():
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(ACTION["inputs"])
    assert all(
        entry["description"] and ("default" in entry) != entry.get("required", False)
        for entry in ACTION["inputs"].values()
    )


def test_every_step_names_its_shell():
    assert ACTION["runs"]["using"] == "composite"
    for step in STEPS.values():
        assert ("uses" in step) != ("run" in step)
        assert "run" not in step or step["shell"] == "bash"
    assert ACTION["outputs"]["verdict"]["value"] == f"${{{{ steps.{STEPS['Check']['id']}.outputs.verdict }}}}"


@pytest.mark.parametrize(("given", "installed"), [("", str(ROOT)), ("robench==0.1.0", "robench==0.1.0")])
def test_the_action_installs_the_requested_or_its_own_version(runner, given, installed):
    assert runner("Install robench", robench=given).returncode == 0
    assert words() == ["-m", "pip", "install", "--quiet", installed]


def test_all_inputs_reach_the_command_unchanged(runner):
    done = runner(
        "Check",
        checkpoint="my model.pt",
        baseline="base line.json",
        max_drop="union=1pp\nrt:3px,30deg=2pp\n",
        data="my data.npz",
        arch="net.py:build",
        arguments="--minutes=30\n--normalise\n0.5/0.5",
    )
    assert done.returncode == 0, done.stderr
    assert words() == [
        "check",
        "--baseline=base line.json",
        "--github",
        "--max-drop=union=1pp",
        "--max-drop=rt:3px,30deg=2pp",
        "--data=my data.npz",
        "--arch=net.py:build",
        "--minutes=30",
        "--normalise",
        "0.5/0.5",
        "--",
        "my model.pt",
    ]


@pytest.mark.parametrize("name", sorted(set(ACTION["inputs"]) - {"cache", "python-version"}))
def test_no_input_can_run_a_command(runner, name):
    known = {"checkpoint": "model.pt", "baseline": "b.json"} | {name: HOSTILE}
    for step in ("Install robench", "Check"):
        runner(step, **{key.replace("-", "_"): value for key, value in known.items()})
    assert not Path("pwned").exists()
    assert name == "fail-on-undecided" or any(HOSTILE in word for word in words())


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(0, "no regression"), (1, "regression"), (2, "not measured"), (3, "undecided"), (130, "not measured")],
)
def test_the_verdict_is_an_output_and_the_step_ends_as_the_command_does(runner, code, verdict):
    assert runner("Check", code=code, checkpoint="m", baseline="b").returncode == code
    assert Path("output.txt").read_text() == f"verdict={verdict}\n"


@pytest.mark.parametrize(("code", "ends"), [(1, 1), (2, 2), (3, 0)])
def test_only_an_undecided_verdict_can_be_allowed(runner, code, ends):
    assert runner("Check", code=code, checkpoint="m", baseline="b", fail_on_undecided="false").returncode == ends


@pytest.mark.processes
def test_the_real_command_passes_an_unchanged_model_and_comments(runner, tmp_path, monkeypatch):
    (tmp_path / "bin" / "robench").write_text(f'#!/bin/sh\nexec {sys.executable} -m robench "$@"\n')
    (tmp_path / "bin" / "robench").chmod(0o755)
    (tmp_path / "tiny.toml").write_text(
        'examples = 8\n[[threat]]\nthreat = "linf:0.1"\nattacks = [{ attack = "pgd", steps = 2 }]\n'
    )
    evaluate = shlex.split("evaluate digits-nat --protocol tiny.toml --quiet --json baseline.json --run b.robench")
    assert CliRunner().invoke(robench, evaluate, standalone_mode=False).exit_code == 0
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
    done = runner("Check", stubs=(), checkpoint="digits-nat", baseline="baseline.json", max_drop="linf:0.1=2pp")
    assert done.returncode == 0, done.stderr
    assert "::notice title=robench check::no regression" in done.stdout
    assert Path("output.txt").read_text() == "verdict=no regression\n"
    assert Path("summary.md").read_text().startswith("### robench check: no regression\n\n|")


def test_the_documented_workflow_gives_the_action_its_inputs():
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "how-to" / "ci.md").read_text(), re.M | re.S)
    (job,) = yaml.safe_load(block)["jobs"].values()
    given = job["steps"][-1]["with"]
    assert set(given) <= set(ACTION["inputs"])
    assert {name for name, entry in ACTION["inputs"].items() if entry.get("required")} <= set(given)
    assert given["max-drop"].splitlines() == ["1pp", "clean=0.5pp"]
