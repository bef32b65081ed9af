"""A file of somebody else never chooses which code runs, which module is imported, or where something is written."""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robench.cli.terminal import one_line, plain
from robench.errors import UserError
from robench.evaluation import prepared
from robench.evidence.store import RunFile
from robench.problem.checkpoints import load
from robench.problem.durable import sha256

from .conftest import run_once

ZOO = Path(__file__).parents[2] / "model_zoo"
WORDS = ("--examples", "5", "--threat", "linf:0.2", "--attack", "pgd(steps=5)", "--precision", "float32", "--quiet")
PLANTED = """from robench.problem.architectures import ARCHITECTURES
open("{trace}", "w").close()
def f(): return ARCHITECTURES["digits-cnn"].build((1, 28, 28), 10)
"""
NAMES = ["net:f", "net.py:f", "./net.py:f", "{folder}/net.py:f", "{folder}/sub/net.py:f", "os:getcwd"]


@pytest.fixture
def planted(folder, tmp_path_factory):
    """A module in the current folder, and beside the run file, that leaves a trace where it is imported."""
    trace = tmp_path_factory.mktemp("trace") / "trace"
    (folder / "sub").mkdir()
    for place in (folder, folder / "sub"):
        (place / "net.py").write_text(PLANTED.format(trace=trace))
    yield trace
    sys.modules.pop("net", None)


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    """A run with finds, and a run and summary of a stronger model as a baseline."""
    folder = tmp_path_factory.mktemp("consent")
    run_once("evaluate", "digits-nat", *WORDS, "--run", folder / "r.robench")
    run_once("evaluate", "digits-adv-linf", *WORDS, "--run", folder / "b.robench", "--json", folder / "b.json")
    return folder


@pytest.fixture
def run(two_runs, folder):
    """Both in the working folder."""
    shutil.copytree(two_runs, folder, dirs_exist_ok=True)
    return folder / "r.robench"


def says(run, **environment):
    """The runs, and the summary beside them, with other words about where they were made."""
    for path in (run, run.with_name("b.robench")):
        with sqlite3.connect(path) as db:
            db.executemany("INSERT OR REPLACE INTO environment VALUES (?, ?)", environment.items())
        db.close()
    summary = json.loads(run.with_name("b.json").read_text())
    summary["environment"] |= environment
    run.with_name("b.json").write_text(json.dumps(summary))


COMMANDS = {
    "verify": ("verify", "r.robench"),
    "verify of a named model": ("verify", "r.robench", "--model", "digits-nat", "--data", "digits"),
    "figures": ("figures", "r.robench", "--out", "p", "--kind", "gallery"),
    "check": ("check", "digits-nat", "--baseline", "b.json", "--until-decided", "--quiet"),
    "check of a run": ("check", "digits-nat", "--baseline", "b.robench", "--until-decided", "--quiet"),
}


@pytest.mark.costly
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_a_factory(planted, run, robench, folder, command, name):
    says(run, arch=name.format(folder=folder))
    result = robench(*COMMANDS[command])
    assert result.code == 2
    assert f"names the architecture {name.format(folder=folder)}, which is code; if you trust it" in result.err
    assert not planted.exists()


@pytest.mark.costly
def test_the_factory_on_the_command_line_is_taken(planted, robench):
    for name, file in (("digits-adv-linf", "own.pt"), ("digits-nat", "new.pt")):
        torch.save(load_file(ZOO / f"{name}.safetensors"), file)
    own = "own.pt", "--data", "digits", "--arch", "net.py:f", *WORDS
    assert robench("evaluate", *own, "--run", "own.robench", "--json", "own.json").code == 0
    assert robench("verify", "own.robench").code == 2
    assert robench("verify", "own.robench", "--arch", "net.py:f").code == 0
    asked = "--baseline", "own.json", "--until-decided", "--quiet"
    # The same text names the same code; where another model is checked, the baseline's code is named beside its own.
    assert robench("check", "new.pt", *asked, "--arch", "net.py:f").code == 1
    result = robench("check", "digits-nat", *asked)
    assert (result.code, "--baseline-arch" in result.err) == (2, True)
    assert robench("check", "digits-nat", *asked, "--baseline-arch", "net.py:f").code == 1


@pytest.mark.parametrize("command", ["verify", "figures", "check"])
def test_trust_pickle_applies_only_to_a_file_named_on_the_command_line(planted, run, robench, command):
    class Evil:
        def __reduce__(self):
            return Path.touch, (planted,)

    torch.save({"model": nn.Linear(1, 1), "x": Evil()}, "evil.pt")
    says(run, checkpoint=str(Path("evil.pt").resolve()))
    result = robench(*COMMANDS[command], "--trust-pickle")
    assert result.code == 2
    assert "to run code of that file, type --" in result.err
    assert not planted.exists()


def test_metadata_and_cards_name_no_factory(planted, robench):
    tensors = {"1.weight": torch.randn(10, 784), "1.bias": torch.zeros(10)}
    save_file(tensors, "m.safetensors", {"architecture": "net.py:f"})
    words = "m.safetensors", "--data", "digits", "--examples", "2", "--quiet"
    assert "if you have its code" in robench("evaluate", *words).err
    digest = sha256(Path("m.safetensors"))
    Path("m.toml").write_text(
        'name = "m"\ndata = "digits"\narchitecture = "net:f"\nshape = [1, 28, 28]\nclasses = 10\n'
        f'weights = "m.safetensors"\nsha256 = "{digest}"\n'
    )
    assert "if you have its code" in robench("evaluate", *words).err
    assert robench("train", "nat", "--data", "digits", "--from", "m.safetensors", "--set", "steps=1").code == 2
    assert not planted.exists()


def test_a_protocol_or_a_baseline_names_attacks_of_libraries_and_no_modules(planted, run, robench, folder):
    for name in ("net:f", "foolbox:net", "foolbox:os.system", "torchattacks:os", "art:net.f", "adv-lib:net"):
        text = f'[[threat]]\nthreat = "linf:0.1"\nattacks = [{{ attack = "{name}" }}]\n'
        (folder / "p.toml").write_text(text)
        assert robench("evaluate", "digits-nat", "--protocol", "p.toml", "--examples", "2").code == 2
        summary = json.loads((folder / "b.json").read_text())
        summary["threats"][0]["attacks"][0]["spec"] = f"{name}(x=1)"
        (folder / "c.json").write_text(json.dumps(summary))
        assert robench("check", "digits-adv-linf", "--baseline", "c.json").code == 2
    assert not planted.exists()


def test_a_training_state_is_read_without_running_code(planted, robench):
    class Evil:
        def __reduce__(self):
            return Path.touch, (planted,)

    torch.save({"identity": Evil()}, "m.training")
    result = robench("train", "nat", "--data", "digits", "--out", "m", "--set", "steps=2")
    assert result.code == 2
    assert not planted.exists()


MODULES = ("torch", "numpy", "safetensors", "click", "msgspec", "foolbox", "pandas", "json")


@pytest.mark.processes
def test_no_module_of_the_current_folder_is_imported(folder, tmp_path_factory):
    trace = tmp_path_factory.mktemp("trace") / "trace"
    for name in MODULES:
        (folder / f"{name}.py").write_text(f'open("{trace}", "w").close()\nraise SystemExit(7)\n')
    torch.save({"0.weight": torch.ones(1, 1)}, folder / "m.pt")
    words = "evaluate", "m.pt", "--data", "digits", "--examples", "2", "--quiet"
    done = subprocess.run([sys.executable, "-m", "robench", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, "matches no architecture that robench knows" in done.stderr) == (2, True), done.stderr
    assert not trace.exists()


def test_reading_weights_does_not_import_from_the_current_folder(folder, monkeypatch):
    torch.save({"0.weight": torch.ones(1, 1)}, folder / "m.pt")
    seen = []
    real = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **given: seen.append(list(sys.path)) or real(*args, **given))
    with pytest.raises(UserError):
        load("m.pt")
    with pytest.raises(UserError):
        load("m.pt", trust_pickle=True)
    assert [str(folder) in path for path in seen] == [False, True]


# Names


BAD = ["../../x", "/etc/x", "C:\\x", "", "x" * 300, "a\0b", "a\nb: all hold", "\x1b[31mred\x1b[0m"]


@pytest.mark.parametrize("name", BAD)
def test_a_card_whose_model_has_no_proper_name_is_refused(folder, robench, name):
    shutil.copy(ZOO / "digits-nat.safetensors", folder / "m.safetensors")
    text = (ZOO / "digits-nat.toml").read_text()
    text = text.replace('"digits-nat.safetensors"', '"m.safetensors"').replace('"digits-nat"', json.dumps(name))
    (folder / "m.toml").write_text(text)
    result = robench("evaluate", "m.safetensors", "--examples", "2", "--quiet")
    assert result.code == 2
    assert "m.toml" in result.err
    assert result.err.rstrip("\n").isprintable()
    assert sorted(p.name for p in folder.iterdir()) == ["m.safetensors", "m.toml", "tiny.toml"]


@pytest.mark.costly
@pytest.mark.parametrize("name", BAD)
def test_names_in_a_run_file_cannot_change_paths_or_the_terminal(run, robench, folder, name):
    with sqlite3.connect(run) as db:
        plan = json.loads(db.execute("SELECT json FROM plan").fetchone()[0])
        plan["model"]["name"] = plan["protocol"] = name
        plan["threats"][0]["attacks"][0]["label"] = name
        db.execute("UPDATE plan SET json = ?", [json.dumps(plan)])
    db.close()
    summary = json.loads((folder / "b.json").read_text())
    summary["model"]["name"] = summary["protocol"] = name
    (folder / "b.json").write_text(json.dumps(summary))
    before = {p for p in folder.parent.rglob("*") if folder not in p.parents}
    commands = [
        ("report", "r.robench"),
        ("report", "r.robench", "--format", "json"),
        ("report", "b.json", "--format", "html"),
        ("figures", "r.robench", "--out", "p", "--kind", "queries"),
        ("check", "digits-adv-linf", "--baseline", "b.json", "--github", "--junit", "j.xml"),
    ]
    for words in commands:
        result = robench(*words)
        assert result.code in (0, 2), result.err
        assert "is a bug" not in result.err
        assert all(c.isprintable() or c in "\n\t" for c in result.out + result.err)
        assert "\nb: all hold" not in result.out + result.err
    assert {p for p in folder.parent.rglob("*") if folder not in p.parents} == before


@pytest.mark.parametrize("name", BAD)
def test_the_default_run_file_is_in_the_folder_runs(run, name):
    with RunFile.read(run) as file:
        plan = file.plan()
    usual = prepared.default_run(msgspec.structs.replace(plan, model=msgspec.structs.replace(plan.model, name=name)))
    assert usual.parent == Path("runs")
    assert usual.name.isprintable()
    assert len(usual.name) < 150
    assert prepared.default_run(plan).name.startswith("digits-nat-")


def test_unprintable_characters_are_escaped():
    assert plain("a\x1b[31m\tb\nc\x9b\u202e") == "a\\u001b[31m\tb\nc\\u009b\\u202e"
    assert one_line("a\nb\r\nc") == "a b c"


def test_a_training_with_an_invalid_name_is_refused(refused):
    for out in (".hidden", "a:b", "x" * 200):
        assert "calls the model" in refused("train", "nat", "--data", "digits", "--out", out)
