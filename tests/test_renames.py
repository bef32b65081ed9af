"""What was written or typed under a name of before the first release goes on working."""

import hashlib
import json
import lzma
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import robench
from robench import renames
from robench.cli.main import main
from robench.errors import UserError
from robench.evidence.store import RunFile
from robench.problem.checkpoints import locate
from robench.problem.checkpoints.cards import read_card
from robench.recipes import configure
from robench.results.summary import Summary
from robench.search.attacks import ATTACKS, build, parse

ROOT = Path(__file__).parents[1]
OLD_RUN = ROOT / "reports" / "runs" / "attacks-digits-adv-linf.robench"
OLD_SPECS = {
    "random-poses(poses=10, steps=1, targets=0)": "random-transforms(steps=1, targets=0, transforms=10)",
    "boundary(bias=1.0, steps=9, targets=0, wide=32)": "boundary(bias=1.0, queries_per_step=32, steps=9, targets=0)",
    "pointwise(steps=5, targets=0, wide=4) under l1:9": "pointwise(queries_per_step=4, steps=5, targets=0) under l1:9",
    "pgd(loss='margin', steps=40) over 20 passes": "pgd(loss='margin', steps=40) over 20 passes",
    "foolbox:DDNAttack(steps=20)": "foolbox:DDNAttack(steps=20)",
    "clean pass": "clean pass",
}


def old_spelling(path):
    """Rewrites a run file as an older version would have written it."""
    with sqlite3.connect(path) as db:
        for table in ("claim", "spent", "failure", "effort"):
            for (text,) in db.execute(f"SELECT DISTINCT attack FROM {table}").fetchall():
                db.execute(f"UPDATE {table} SET attack = ? WHERE attack = ?", [renames.former_spec(text), text])
        (plan,) = db.execute("SELECT json FROM plan").fetchone()
        plan = json.loads(plan)
        for attack in (a for threat in plan["threats"] for a in threat["attacks"]):
            attack["spec"] = renames.former_spec(attack["spec"])
            attack["label"] = attack["label"].replace("random-transforms", "random-poses")
        db.execute("UPDATE plan SET json = ?", [json.dumps(plan)])


def rt_evaluation(path, examples, attack="random-transforms(transforms=4)"):
    return robench.evaluate(
        "digits-adv-rt", threats=["rt:2px,20deg"], attacks=[attack], examples=examples, run=path, precision="float32"
    )


@pytest.mark.parametrize(("old", "new"), OLD_SPECS.items())
def test_a_spec_is_read_under_its_present_names_and_its_former_names_are_known(old, new):
    assert renames.spec(old) == new
    assert renames.spec(new) == new, "present names stay"
    assert renames.former_spec(new) == old


@given(st.sampled_from(sorted(renames.SETTINGS)), st.integers(1, 10**6))
def test_the_former_spec_of_an_attack_translates_back_to_it(name, steps):
    spec = build(name, {"steps": steps}).spec
    assert renames.spec(renames.former_spec(spec)) == spec


def test_every_present_name_exists_and_no_former_one_does():
    assert set(renames.SETTINGS) | set(renames.ATTACKS.values()) <= ATTACKS.keys()
    assert not set(renames.ATTACKS) & ATTACKS.keys()
    for name, settings in renames.SETTINGS.items():
        assert all(
            new in build(name, {}).spec and f"{old}=" not in build(name, {}).spec for old, new in settings.items()
        )


def test_an_attack_typed_under_its_old_name_is_the_same_attack():
    assert build(*parse("random-poses(poses=3)")) == build("random-transforms", {"transforms": 3})
    assert build(*parse("pointwise(wide=8)")) == build("pointwise", {"queries_per_step": 8})


def test_an_old_run_is_read_under_present_names_and_its_file_stays_as_it_is(tmp_path):
    before = hashlib.sha256(OLD_RUN.read_bytes()).hexdigest()
    expanded = tmp_path / "expanded.robench"
    expanded.write_bytes(lzma.decompress(OLD_RUN.read_bytes()))
    with closing(sqlite3.connect(expanded)) as db:
        stored = {text for (text,) in db.execute("SELECT DISTINCT attack FROM spent")}
    assert any("wide=" in text for text in stored), "an old file"
    specs = {a.spec for t in robench.load_run(OLD_RUN).threats for a in t.attacks}
    assert any("queries_per_step=" in spec for spec in specs)
    assert not any("wide=" in spec for spec in specs)
    assert hashlib.sha256(OLD_RUN.read_bytes()).hexdigest() == before


def test_an_old_run_is_resumed_and_nothing_is_searched_twice(tmp_path):
    path = tmp_path / "run.robench"
    first = rt_evaluation(path, 12)
    old_spelling(path)
    again = rt_evaluation(path, 12)
    assert [t.outcomes for t in again.threats] == [t.outcomes for t in first.threats]
    assert again.cost.forwards == first.cost.forwards, "no query is made again"
    more = rt_evaluation(path, 30)
    assert more.union.outcomes[:12] == first.union.outcomes
    with sqlite3.connect(path) as db:
        keys = [(e, t, renames.spec(a)) for e, t, a in db.execute("SELECT example, threat, attack FROM spent")]
    assert len(keys) == len(set(keys)), "one row for each example, under one name"


def test_the_same_noise_is_met_under_the_old_name(tmp_path):
    new = rt_evaluation(tmp_path / "new.robench", 20)
    old = rt_evaluation(tmp_path / "old.robench", 20, "random-poses(poses=4)")
    assert old.threats == msgspec_seconds(new.threats, old.threats)


def msgspec_seconds(threats, like):
    """The threats with the seconds of others: all else must be equal."""
    import msgspec

    put = msgspec.structs.replace
    return tuple(
        put(t, attacks=tuple(put(a, seconds=b.seconds) for a, b in zip(t.attacks, o.attacks, strict=True)))
        for t, o in zip(threats, like, strict=True)
    )


def test_an_old_summary_is_read_under_present_names():
    summary = robench.load_run(OLD_RUN)
    old = summary.to_json()
    for spec in {a.spec for t in summary.threats for a in t.attacks}:
        old = old.replace(spec, renames.former_spec(spec))
    assert "wide=" in old
    assert Summary.from_json(old) == summary


def test_a_bundled_model_is_found_under_its_old_name():
    weights, card = locate("mnist-eat-wider")
    assert (weights.name, card.name) == ("mnist-eat-l1r14.safetensors", "mnist-eat-l1r14")


def test_an_old_card_is_read_under_present_names(tmp_path):
    text = (ROOT / "model_zoo" / "digits-sat.toml").read_text()
    (tmp_path / "old.toml").write_text(text.replace("transforms = ", "poses = "))
    assert read_card(tmp_path / "old.toml").settings["transforms"] == 10


def test_a_recipe_takes_a_setting_under_its_old_name():
    assert configure("sat", "digits", {"poses": 3}) == configure("sat", "digits", {"transforms": 3})


@pytest.mark.parametrize(("make", "both"), [
    (lambda both: build("random-poses", both), {"poses": 4, "transforms": 5}),
    (lambda both: build("boundary", both), {"queries_per_step": 8, "wide": 4}),
    (lambda both: configure("spatial_at", "digits", both), {"poses": 2, "transforms": 3}),
])  # fmt: skip
def test_a_setting_given_under_both_its_names_is_refused(make, both):
    with pytest.raises(UserError, match=r"twice: (poses|wide) is its former name; write (transforms|queries_per_step)"):
        make(both)


def test_a_former_name_that_a_recipe_never_had_is_refused_as_it_was_typed():
    with pytest.raises(UserError, match="no setting of pgd_at is called 'poses'"):
        configure("pgd_at", "digits", {"poses": 2})


@pytest.mark.parametrize(
    ("kind", "former", "present"),
    [("attacks", "random-poses", "random-transforms"), ("models", "mnist-eat-wider", "mnist-eat-l1r14")],
)
def test_a_former_name_is_listed_under_its_present_one(kind, former, present, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["robench", "list", kind, former])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(present)


def test_the_command_takes_old_names(tmp_path, monkeypatch):
    path = tmp_path / "r.robench"
    question = ["digits-adv-rt", "--threat", "rt:2px,20deg", "--attack", "random-poses(poses=2)", "--examples", "5"]
    monkeypatch.setattr("sys.argv", ["robench", "evaluate", *question, "--run", str(path), "--quiet"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    with RunFile.read(path) as run:
        assert run.plan().threats[0].attacks[0].label == "random-transforms"


def test_every_rename_is_documented():
    page = (ROOT / "docs" / "reference" / "renames.md").read_text()
    pairs = [*renames.ATTACKS.items(), *renames.MODELS.items(), *renames.RECIPE_SETTINGS.items()]
    pairs += [pair for settings in renames.SETTINGS.values() for pair in settings.items()]
    for old, new in pairs:
        assert f"| `{old}` | `{new}` |" in page, old
