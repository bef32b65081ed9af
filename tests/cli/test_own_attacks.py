"""`--attack file.py:Class`: an attack of the user's own runs where the command names it, and nowhere else."""

import json
import sqlite3
import sys

import pytest

from robench import api
from robench.errors import UserError
from robench.search.attacks.pgd import PGD
from robench.testing import assert_robust

MINE = """from dataclasses import dataclass
from typing import ClassVar
import torch
from robench.attacks import PGD, State
with open({trace!r}, "a") as file:
    file.write("ran ")


@dataclass(frozen=True)
class Mine(PGD):
    threats: ClassVar[tuple[str, ...]] = ("linf", "l2")
    steps: int = 5
    tilt: float = 0.0

    def step(self, threat, batch, state, seen):
        return super().step(threat, batch, state, seen)
"""
WORDS = "--examples", "10", "--threat", "linf:0.1", "--precision", "float32", "--quiet"


@pytest.fixture
def trace(folder, tmp_path_factory):
    """mine.py in the folder, which adds to this file whenever it is run."""
    path = tmp_path_factory.mktemp("trace") / "trace"
    (folder / "mine.py").write_text(MINE.format(trace=str(path)))
    return path


@pytest.fixture
def run(trace, robench, folder):
    """A finished run of mine.py, with its summary in s.json."""
    own = "--attack", "mine.py:Mine(steps=6, restarts=2)", "--run", "r.robench", "--json", "s.json"
    assert robench("evaluate", "digits-nat", *WORDS, *own).code == 0
    assert trace.read_text() == "ran "
    trace.unlink()
    return folder / "r.robench"


def entry(folder):
    (threat,) = json.loads((folder / "s.json").read_text())["threats"]
    return threat["attacks"]


def test_it_is_searched_counted_and_judged_as_any_attack(run, folder, robench):
    (mine,) = entry(folder)
    assert (mine["name"], mine["items"], mine["tried"]) == ("mine.py:Mine", 2, 10)
    assert 0 < mine["broken"] < 10
    assert mine["backwards"] == mine["forwards"] > 0
    pgd = "--attack", "pgd(steps=6, restarts=2)", "--run", "pgd.robench", "--json", "s.json"
    assert robench("evaluate", "digits-nat", *WORDS, *pgd).code == 0
    assert entry(folder)[0]["broken"] == pytest.approx(mine["broken"], abs=2), "the same search with other noise"


def test_the_same_command_goes_on_and_an_edited_attack_is_searched_apart(run, folder, robench):
    again = "evaluate", "digits-nat", *WORDS, "--attack", "mine.py:Mine(steps=6, restarts=2)", "--run", "r.robench"
    before = entry(folder)
    assert robench(*again, "--json", "s.json").code == 0
    assert [a["forwards"] for a in entry(folder)] == [a["forwards"] for a in before]
    with (folder / "mine.py").open("a") as file:
        file.write("# edited\n")
    assert robench(*again, "--json", "s.json", "--every-attack").code == 0
    (edited,) = entry(folder)
    assert edited["spec"] != before[0]["spec"]
    assert edited["tried"] == 10, "nothing that was searched before the edit counts for it"


@pytest.mark.costly
def test_nothing_that_reads_a_run_executes_it(run, trace, robench, folder):
    commands = {
        ("report", "r.robench", "--breakdown"): 0,
        ("verify", "r.robench"): 0,
        ("export", "r.robench", "--out", "rows.csv"): 0,
        ("figures", "r.robench", "--out", "p"): 0,
        ("merge", "r.robench", "--out", "m.robench"): 0,
        ("check", "digits-nat", "--baseline", "s.json", "--quiet"): 2,
    }
    for command, code in commands.items():
        result = robench(*command)
        assert result.code == code, result
    result = robench("verify", "r.robench", "--search", "2", "--seed", "0")
    assert "nothing can be searched again: mine.py:Mine under linf:0.1" in result.err
    assert "which runs only if you name it: type --attack file.py:Class" in result.err
    assert robench("check", "digits-adv-linf", "--baseline", "r.robench", "--quiet").code == 2
    assert not trace.exists()


def test_searching_again_runs_it_where_the_command_names_it(run, trace, robench):
    result = robench("verify", "r.robench", "--search", "2", "--seed", "0", "--attack", "mine.py:Mine", "--quiet")
    assert result.code in (0, 1)
    assert "standing examples searched again" in result.out or "standing example searched again" in result.out
    assert trace.read_text() == "ran "


def test_the_gate_runs_it_where_the_command_names_it(run, trace, robench, folder):
    result = robench("check", "digits-adv-linf", "--baseline", "s.json", "--quiet", "--attack", "mine.py:Mine")
    assert result.code == 0, result
    assert trace.read_text() == "ran "
    with (folder / "mine.py").open("a") as file:
        file.write("# edited\n")
    result = robench("check", "digits-adv-linf", "--baseline", "s.json", "--quiet", "--attack", "mine.py:Mine")
    assert result.code == 2
    assert "an edited attack is another attack" in result.err


def test_assert_robust_runs_it_where_the_caller_names_it(run, trace):
    with pytest.raises(UserError, match="which runs only if you name it"):
        assert_robust("digits-adv-linf", baseline="s.json")
    assert not trace.exists()
    assert assert_robust("digits-adv-linf", baseline="s.json", attacks="mine.py:Mine").union.accuracy > 0
    assert trace.read_text() == "ran "


def test_naming_one_to_verify_without_a_search_is_refused(run, refused):
    assert "--attack is for searching again; add --search N" in refused(
        "verify", "r.robench", "--attack", "mine.py:Mine"
    )


@pytest.mark.parametrize("attack", ["mine.py:Mine", "./mine.py:Mine", "mine.py@0123456789ab:Mine"])
def test_no_protocol_file_names_one(trace, folder, refused, attack):
    text = f'name = "theirs"\n[[threat]]\nthreat = "linf:0.1"\nattacks = [{{ attack = "{attack}" }}]\n'
    (folder / "theirs.toml").write_text(text)
    result = refused("evaluate", "digits-nat", "--protocol", "theirs.toml")
    assert f"theirs.toml: {attack} is an attack in a file of code, which runs only if you name it" in result
    assert not trace.exists()


@pytest.mark.costly
@pytest.mark.parametrize(
    "spec", ["mine.py:Mine(steps=6)", "./mine.py:Mine(steps=6)", "mine.py@0123456789ab:Mine(steps=6)"]
)
def test_no_run_file_and_no_summary_names_one(run, trace, robench, folder, spec):
    """Whatever name a foreign plan gives to its attack."""
    summary = (folder / "s.json").read_text()
    (mine,) = entry(folder)
    (folder / "s.json").write_text(summary.replace(mine["spec"], spec))
    assert robench("check", "digits-adv-linf", "--baseline", "s.json", "--quiet").code == 2
    with sqlite3.connect(run) as db:
        for table, column in (("plan", "json"), ("claim", "attack"), ("spent", "attack"), ("effort", "attack")):
            db.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (mine["spec"], spec))
        assert spec in db.execute("SELECT json FROM plan").fetchone()[0]
    db.close()
    assert robench("report", run).code == 0
    assert robench("verify", run).code == 0
    result = robench("verify", run, "--search", "2")
    assert "nothing can be searched again: mine.py:Mine under linf:0.1" in result.err
    assert robench("check", "digits-adv-linf", "--baseline", run, "--quiet").code == 2
    assert not trace.exists()


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        ("mien.py:Mine", "there is no file mien.py; did you mean mine.py?"),
        ("mine.py:Mien", "no attack in mine.py is called 'Mien'; did you mean Mine?"),
        ("mine.py:State", "is no attack; derive the class from one of"),
        ("mine.py:Mine(steps=0)", "Mine cannot take steps=0"),
        ("mine.py:Mine(restarts=0)", "mine.py:Mine cannot take restarts=0: it needs a whole number, at least 1"),
        ("broken.py:Mine", "importing broken.py failed with ZeroDivisionError"),
    ],
)
def test_bad_input_is_one_line(trace, folder, refused, attack, sentence):
    (folder / "broken.py").write_text("1 / 0\n")
    assert sentence in refused("evaluate", "digits-nat", *WORDS, "--attack", attack)


def test_a_threat_that_it_does_not_attack_is_refused(trace, refused):
    result = refused("evaluate", "digits-nat", "--threat", "l1:10", "--attack", "mine.py:Mine")
    assert "mine.py:Mine does not attack l1; it attacks linf, l2" in result


def test_its_file_is_not_overwritten(trace, refused):
    result = refused("evaluate", "digits-nat", *WORDS, "--attack", "mine.py:Mine", "--json", "mine.py")
    assert "--json mine.py would overwrite what the evaluation reads" in result


def test_an_attack_that_raises_leaves_its_examples_open(trace, folder, robench):
    text = (folder / "mine.py").read_text().replace("return super()", "raise KeyError('oh'); return super()")
    (folder / "mine.py").write_text(text)
    result = robench("evaluate", "digits-nat", *WORDS, "--attack", "mine.py:Mine", "--json", "s.json")
    assert result.code == 2
    assert "KeyError: 'oh'" in result.err + result.out


def test_an_attack_that_ends_python_is_an_error_whatever_its_exit_code(trace, folder, robench):
    text = (folder / "mine.py").read_text().replace("return super()", "raise SystemExit(0); return super()")
    (folder / "mine.py").write_text(text)
    result = robench("evaluate", "digits-nat", *WORDS, "--attack", "mine.py:Mine")
    assert (result.code, result.out) == (2, "")
    assert "ended Python: sys.exit(0)" in result.err


def test_no_instance_takes_the_key_of_another_attack(trace, folder, robench):
    claims_pgd = "    def __post_init__(self):\n        object.__setattr__(self, 'name', 'pgd')\n\n    def step("
    (folder / "mine.py").write_text((folder / "mine.py").read_text().replace("    def step(", claims_pgd))
    own = "--attack", "mine.py:Mine", "--run", "r.robench", "--json", "s.json"
    assert robench("evaluate", "digits-nat", *WORDS, *own).code == 0
    (mine,) = entry(folder)
    assert (mine["name"], mine["spec"].partition("@")[0]) == ("mine.py:Mine", "mine.py")


@pytest.mark.parametrize("name", ["name", "spec", "source", "threats", "reads"])
def test_a_setting_named_like_a_fact_of_every_attack_is_refused(trace, folder, refused, name):
    text = (folder / "mine.py").read_text().replace("tilt: float = 0.0", f'{name}: str = "pgd"')
    (folder / "mine.py").write_text(
        text.replace("    threats: ClassVar", "    others: ClassVar") if name == "threats" else text
    )
    assert refused("evaluate", "digits-nat", *WORDS, "--attack", "mine.py:Mine")


def test_a_folder_is_no_file_to_suggest(folder, refused):
    (folder / "mine.py").mkdir()
    assert "did you mean" not in refused("evaluate", "digits-nat", *WORDS, "--attack", "mine.py:Mine")


def test_what_it_finds_outside_the_threat_does_not_count(trace, folder, robench):
    text = (
        (folder / "mine.py")
        .read_text()
        .replace("return super().step(threat, batch, state, seen)", "return State(torch.rand_like(batch.x) - batch.x)")
    )
    (folder / "mine.py").write_text(text)
    robench("evaluate", "digits-nat", *WORDS, "--attack", "mine.py:Mine(random_start=False)", "--json", "s.json")
    (mine,) = entry(folder)
    assert mine["broken"] == 0


def test_python_takes_text_a_class_and_an_instance(trace, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "mine", None)  # forgotten after the test, for the next file of this name
    del sys.modules["mine"]
    from mine import Mine  # type: ignore[import-not-found]

    def specs(*attacks):
        summary = api.evaluate("digits-nat", "digits", threats=["linf:0.1"], attacks=attacks, examples=3)
        return [a.spec for a in summary.threats[0].attacks]

    text, kind, instance = specs("mine.py:Mine"), specs(Mine), specs(Mine(steps=5))
    assert text == kind == instance
    assert specs(Mine(steps=3), PGD(steps=3))[1].startswith("pgd(")
    assert api.evaluate("digits-nat", "digits", threats=["linf:0.1"], attacks=Mine, examples=3).clean.accuracy > 0


def test_help_mentions_it(robench):
    assert "my_attack.py:MyAttack(steps=50)" in robench("evaluate", "--help").out


@pytest.mark.costly
def test_the_doctor_holds_it_to_the_contract(trace, folder, robench, monkeypatch):
    from robench.doctor.cases import cases

    some = cases()[:2]
    monkeypatch.setattr("robench.cli.doctor.cases", lambda device: some)
    result = robench("doctor", "--attack", "mine.py:Mine(steps=4)", "--quiet")
    assert (result.code, "| one by one" in result.out) == (0, False)
    assert "## Your own attacks" in result.out
    assert "| contract |" in result.out
    text = (folder / "mine.py").read_text().replace("return super()", "seen.grad.mul_(batch.y.sum()); return super()")
    (folder / "mine.py").write_text(text)
    result = robench("doctor", "--attack", "mine.py:Mine(steps=4)", "--quiet")
    assert result.code == 1
    assert "contract: step writes into the tensors it is given" in result.out
