"""`robench evaluate`: the table, the summary file, and what is said on the way."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from robench.errors import UserError
from robench.evidence.store import RunFile
from robench.problem.checkpoints import load, locate
from robench.results.summary import Summary
from robench.search.attacks.pgd import PGD
from robench.search.foreign.library import library

from .conftest import files

pytestmark = pytest.mark.precision
foolbox = library("foolbox", install="foolbox")
TINY = "evaluate", "digits-nat", "--protocol", "tiny.toml"

# DESIGN.md, section 6, word for word but for the values.
DOCUMENTED = json.loads("""
{"schema": "robench.summary/1", "robench": "0.1.0",
 "model": {"name": "...", "weights_sha256": "...", "architecture": "..."},
 "data": {"name": "mnist:test", "examples": 1000, "sha256": "..."},
 "protocol": "tramer2019-mnist-lp", "seed": 0,
 "clean": {"accuracy": 0.991, "ci95": [0.983, 0.995], "correct": 991},
 "threats": [
   {"threat": "linf:0.3", "accuracy": 0.911, "ci95": [0.892, 0.927], "wrong": 9, "broken": 80, "standing": 911,
    "open": 0, "outcomes": "SSBWS...",
    "rejected": {"outside": 0, "outside the box": 0, "does not fool": 0, "not finite": 0},
    "attacks": [{"name": "pgd", "tried": 991, "accuracy": 0.913, "broken": 78, "alone": 3, "seconds": 41.2,
                 "forwards": 0, "backwards": 0}],
    "curve": {"radius": [], "accuracy": []},
    "masking": {"verdict": "untested", "evidence": ["..."], "next": "robench evaluate ..."}}],
 "union":   {"accuracy": 0.068, "ci95": [0.053, 0.086], "wrong": 9, "broken": 923, "standing": 68, "open": 0,
             "outcomes": "..."},
 "average": {"accuracy": 0.382, "ci95": [0.36, 0.40]},
 "masking": {"verdict": "...", "evidence": ["..."]},
 "cost": {"seconds": 0.0, "forwards": 0, "backwards": 0}, "environment": {}}
""")


def unlike(documented, given, where="summary"):
    """Every place at which `given` lacks what is documented, or holds another type."""
    if type(documented) is not type(given):
        yield f"{where} is {given!r}"
    elif isinstance(documented, dict):
        for key, value in documented.items():
            if key in given:
                yield from unlike(value, given[key], f"{where}.{key}")
            else:
                yield f"{where} lacks {key}"
    elif isinstance(documented, list) and documented:
        for number, value in enumerate(given):
            yield from unlike(documented[0], value, f"{where}[{number}]")


def test_the_comparison_itself_notices_what_is_missing_or_of_another_type():
    assert list(unlike(DOCUMENTED, DOCUMENTED)) == []
    spoilt = json.loads(json.dumps(DOCUMENTED))
    del spoilt["threats"][0]["attacks"][0]["alone"]
    spoilt["union"]["accuracy"] = None
    spoilt["clean"]["correct"] = 991.0
    assert len(list(unlike(DOCUMENTED, spoilt))) == 3


@pytest.mark.parametrize("every", [False, True])
def test_the_summary_file_has_every_documented_field_with_its_type(robench, folder, every):
    result = robench(*TINY, "--json", "s.json", *["--every-attack"] * every)
    assert result.code == 0
    summary = json.loads((folder / "s.json").read_text())
    faults = list(unlike(DOCUMENTED, summary))
    if not every:  # then nobody knows what an attack would have done on examples that others broke before
        assert all(a["accuracy"] is None and a["alone"] is None for t in summary["threats"] for a in t["attacks"])
        faults = [f for f in faults if not f.endswith((".accuracy is None", ".alone is None"))]
    assert faults == []
    assert summary["schema"] == "robench.summary/1"
    for part in (*summary["threats"], summary["union"]):
        counts = [part[key] for key in ("wrong", "broken", "standing", "open")]
        assert counts == [part["outcomes"].count(letter) for letter in "WBSO"]
        assert sum(counts) == summary["data"]["examples"] == 12
        assert part["accuracy"] == (part["standing"] + part["open"]) / 12
        low, high = part["ci95"]
        assert 0 <= low <= part["accuracy"] <= high <= 1
    assert summary["cost"]["forwards"] == sum(a["forwards"] for t in summary["threats"] for a in t["attacks"]) > 0
    assert summary["environment"]["torch"] == torch.__version__
    assert summary["environment"]["parameters"] == "54822"  # as the card of the bundled model says
    assert Summary.from_json((folder / "s.json").read_text()).to_json() == (folder / "s.json").read_text()


def test_the_summary_on_stdout_is_nothing_but_json(robench, folder):
    result = robench(*TINY, "--json", "-")
    assert result.code == 0
    assert list(unlike(DOCUMENTED["clean"], json.loads(result.out)["clean"])) == []
    assert [name for name in files(folder) if name != "tiny.toml"] == [n for n in files(folder) if "runs/" in n]


def test_the_table_shows_every_threat_and_where_the_evidence_is(robench, folder):
    result = robench(*TINY, "--breakdown")
    assert result.code == 0
    (kept,) = (folder / "runs").iterdir()
    assert kept.name.startswith("digits-nat-")
    assert kept.suffix == ".robench"
    for text in ("digits-nat", "linf:0.1", "l2:1", "union", "average", "quick", "random"):
        assert text in result.out
    assert "clean accuracy" in result.err
    assert f"evidence in {kept.relative_to(folder)}" in result.err


def test_the_same_command_again_prints_the_same_and_adds_nothing(robench, folder):
    first = robench(*TINY, "--quiet", "--json", "a.json")
    kept = files(folder / "runs")
    second = robench(*TINY, "--quiet", "--json", "b.json")
    assert (first.out, first.err) == (second.out, "")
    a, b = (json.loads((folder / name).read_text()) for name in ("a.json", "b.json"))
    for summary in (a, b):
        summary["environment"].pop("command")
    assert a == b
    with RunFile.read(next((folder / "runs").iterdir())) as run:
        assert len(run.evidence().clean) == 12
    assert list(kept) == list(files(folder / "runs"))


@pytest.mark.parametrize(("examples", "counted"), [(1, "1 example:"), (3, "3 examples:")])
def test_what_an_error_ended_is_failed_and_not_still_to_do(robench, monkeypatch, examples, counted):
    def broken(*arguments):
        raise RuntimeError("no gradient today")

    monkeypatch.setattr(PGD, "step", broken)
    words = ("--data", "digits", "--threat", "linf:0.01", "--attack", "pgd(steps=2)", "--attack", "square(steps=2)")
    reported = robench("evaluate", "digits-adv-linf", *words, "--examples", examples, "--json", "-")
    summary = json.loads(reported.out)
    (threat,) = summary["threats"]
    assert reported.code == 0
    assert (threat["open"], threat["failed"], summary["union"]["failed"]) == (examples, examples, examples)
    assert f"an error ended the search on {counted}" in reported.err
    assert "still open" not in reported.err
    table = robench("report", next(Path("runs").iterdir())).out
    assert f"({examples} failed)" in table
    assert "still to do" not in table


def test_examples_beyond_the_time_limit_stay_open_until_the_same_command_finishes_them(robench, folder):
    result = robench(*TINY, "--minutes", "1e-9", "--json", "early.json")
    assert result.code == 0
    assert "11 examples are still open" in result.err or "12 examples are still open" in result.err
    assert "open" in result.out
    robench(*TINY, "--json", "late.json")
    early, late = (json.loads((folder / f"{name}.json").read_text()) for name in ("early", "late"))
    assert early["union"]["open"] > late["union"]["open"] == 0
    assert list(files(folder / "runs")) == [next((folder / "runs").iterdir()).name]


@pytest.mark.costly
def test_a_library_ends_with_the_time_and_is_asked_again_for_what_is_open(robench, folder, monkeypatch):
    loops = [10**9]

    def run(self, model, inputs, criterion, *, epsilon, **kwargs):
        for _ in range(loops[-1]):
            model(inputs + 0.001)
        return inputs

    monkeypatch.setattr(foolbox.attacks.LinfFastGradientAttack, "run", run)
    words = ("--threat", "linf:0.1", "--attack", "foolbox:LinfFastGradientAttack", "--examples", "4")
    started = time.monotonic()
    result = robench("evaluate", "digits-nat", *words, "--minutes", "0.05", "--json", "early.json")
    assert time.monotonic() - started < 20
    assert "4 examples are still open" in result.err
    loops.append(3)
    robench("evaluate", "digits-nat", *words, "--json", "late.json")
    early, late = (json.loads((folder / f"{name}.json").read_text()) for name in ("early", "late"))
    assert (early["union"]["open"], late["union"]["open"]) == (4, 0)
    assert early["cost"]["seconds"] > 2, "of three seconds, clean images take the rest"


def test_threats_attacks_and_examples_can_be_chosen(robench, folder):
    words = ("--threat", "linf:8/255", "--attack", "pgd(steps=2, restarts=3)", "--examples", "3:8", "--seed", "5")
    robench(*TINY, *words, "--json", "s.json")
    summary = json.loads((folder / "s.json").read_text())
    assert [t["threat"] for t in summary["threats"]] == ["linf:8/255"]
    assert [a["name"] for a in summary["threats"][0]["attacks"]] == ["pgd"]
    assert (summary["data"]["examples"], summary["seed"]) == (5, 5)
    with RunFile.read(next((folder / "runs").iterdir())) as run:
        assert [c.example for c in run.evidence().clean] == [3, 4, 5, 6, 7]
        assert run.plan().threats[0].attacks[0].items == 3


# A model that is no better than guessing

WRAPPED = """
import torch
from torch import nn
from robench.problem.architectures import ARCHITECTURES

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = ARCHITECTURES["digits-cnn"].build((1, 28, 28), 10)

    def forward(self, x):
        {body}

    def load_state_dict(self, state, *args, **kwargs):
        return self.net.load_state_dict(state, *args, **kwargs)

    def state_dict(self, *args, **kwargs):
        return self.net.state_dict(*args, **kwargs)
"""


@pytest.fixture
def mistaken(folder, robench):
    """What is said about a good network with this forward pass around it."""
    torch.save(safetensors.torch.load_file(locate("digits-nat")[0]), folder / "model.pt")

    def call(body, *more):
        (folder / "wrapped.py").write_text(WRAPPED.format(body=body))
        words = "evaluate", "model.pt", "--data", "digits", "--protocol", "tiny.toml", "--arch", "wrapped.py:Wrapped"
        result = robench(*words, "--attack", "pgd(steps=1)", "--threat", "l2:0.01", "--examples", "100", *more)
        assert result.code == 0
        return "\n".join(line for line in result.err.splitlines() if line.startswith("warning: "))

    return call


def test_an_accurate_model_causes_no_warning(mistaken):
    assert mistaken("return self.net(x)") == ""


def test_a_model_without_its_normalisation_causes_a_warning(mistaken):
    warning = mistaken("return self.net(x / 255)")
    assert "is no better than chance" in warning
    assert "--normalise 0/0.003921569" in warning


def test_following_the_advice_on_normalisation_restores_the_accuracy(mistaken):
    assert mistaken("return self.net(x / 255)", "--normalise", "0/0.003921569") == ""


def test_a_model_with_permuted_labels_causes_a_warning(mistaken):
    warning = mistaken("return self.net(x).roll(3, dims=1)")
    assert "its classes seem to be in another order: it predicts 3 for 0, 4 for 1" in warning


def test_the_warning_comes_before_the_attacks(mistaken, robench):
    mistaken("return self.net(x / 255)")
    result = robench(
        "evaluate", "model.pt", "--data", "digits", "--protocol", "tiny.toml", "--arch", "wrapped.py:Wrapped"
    )
    lines = result.err.splitlines()
    warned = next(i for i, line in enumerate(lines) if line.startswith("warning: "))
    assert lines[warned - 1].startswith("clean accuracy ")
    assert warned < next(i for i, line in enumerate(lines) if line.startswith("evidence in "))


# Stopped

LONG = """
[[threat]]
threat = "linf:0.02"
attacks = [{ attack = "pgd", steps = 2, restarts = 10000 }]
"""


def any_search_ended(folder):
    """Whether the run file has the end of a search; read from a copy, because readers keep writers out."""
    with tempfile.TemporaryDirectory() as copy:
        for path in folder.glob("r.robench*"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(path, copy)
        with contextlib.suppress(UserError), RunFile.read(Path(copy, "r.robench")) as run:
            return any(s.done for s in run.evidence().exhausted)
    return False


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_with_a_table_with_open_cells(folder, number):
    (folder / "long.toml").write_text(LONG)
    words = shlex.split("evaluate digits-nat --protocol long.toml --examples 20 --run r.robench --json s.json")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "robench", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    said = process.stderr.readline()
    assert said.startswith("clean accuracy"), said + process.stderr.read()
    while not any_search_ended(folder):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "open" in out
    assert "stopped; the evidence so far is in r.robench" in err
    assert "Traceback" not in err
    assert sorted(files(folder)) == ["long.toml", "r.robench", "s.json", "tiny.toml"]
    summary = json.loads((folder / "s.json").read_text())
    assert summary["union"]["open"] > 0
    with RunFile.read(folder / "r.robench") as run:
        assert any(s.done for s in run.evidence().exhausted)


def test_images_found_in_bfloat16_are_verified_in_float32(robench, folder):
    asked = "evaluate", "digits-nat", "--protocol", "tiny.toml", "--run", "rough.robench", "--precision"
    assert robench(*asked, "bfloat16").code == 0
    with RunFile.read(folder / "rough.robench") as run:
        assert run.plan().precision == "bfloat16"
        assert len(run.evidence().verdicts) > 3
        assert {v.rejection for v in run.evidence().verdicts} == {""}
    assert robench("verify", "rough.robench").code == 0
    refused = robench(*asked, "half")
    assert (refused.code, "no precision is called 'half'" in refused.err) == (2, True)


@pytest.mark.costly
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_torchscript_file_is_searched_in_bfloat16(robench, folder):
    network = load("digits-nat").classifier
    torch.jit.trace(network.module, torch.rand(2, *network.shape)).save(folder / "traced.pt")
    letters = []
    for precision in ("float32", "bfloat16"):
        asked = "evaluate", "traced.pt", "--data", "digits", "--protocol", "tiny.toml", "--json", "s.json"
        assert robench(*asked, "--run", f"{precision}.robench", "--precision", precision).code == 0
        with RunFile.read(folder / f"{precision}.robench") as run:
            assert run.plan().precision == precision
        threats = json.loads((folder / "s.json").read_text())["threats"]
        letters.append("".join(threat["outcomes"] for threat in threats))
    assert {"B", "S"} <= set(letters[0])
    assert sum(exact != rough for exact, rough in zip(*letters, strict=True)) <= 1, "an image at the boundary"


@pytest.mark.costly
def test_a_run_without_a_curve_does_not_get_one(robench, tmp_path):
    """Its searches ended at their first find, so accuracy at smaller radii would be too high."""
    run = tmp_path / "r.robench"
    words = "evaluate", "digits-nat", "--threat", "l2:1", "--attack", "ddn", "--examples", "4", "--quiet"
    assert robench(*words, "--run", run).code == 0
    before = run.read_bytes()
    refused = robench(*words, "--run", run, "--curve")
    assert refused.code == 2
    assert "name another file with --run for --curve" in refused.err
    assert run.read_bytes() == before
    assert robench(*words, "--run", tmp_path / "curve.robench", "--curve").code == 0
