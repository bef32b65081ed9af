"""`robench export` and `robench.load_images`; images in folders from the command line to the exported file."""

import csv
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import robench as package
from robench.cli.export import MAX
from robench.evidence.store import RunFile
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.datasets.preparation import Preparation
from robench.problem.split import shuffled_rows
from robench.results import exported
from robench.results.outcomes import breaks
from robench.results.summary import Summary

from .conftest import files


@pytest.fixture
def run(folder, measured):
    shutil.copy(measured / "r.robench", folder)
    return folder / "r.robench"


def arrays(path):
    with np.load(path) as held:
        return dict(held)


def content(path):
    with RunFile.read(path) as file:
        return file.plan(), file.evidence()


def test_the_images_are_adversarial_beside_the_clean_ones_they_were_made_from(run, robench, folder):
    before = run.read_bytes()
    said = robench("export", "r.robench", "--out", "adv.npz")
    assert said.code == 0, said
    held = arrays("adv.npz")
    assert held.keys() == {"x", "x_adv", "y", "example", "threat", "attack", "size", "margin", "params"}
    summary = package.load_run(run)
    assert [t.broken for t in summary.threats] == [int((held["threat"] == t.threat).sum()) for t in summary.threats]
    digits = datasets.load("digits").take(held["example"].tolist())
    assert np.array_equal(held["x"], digits.x.numpy())
    assert held["y"].tolist() == digits.y.tolist()
    net = load("digits-nat").classifier.module
    with torch.no_grad():
        assert not (net(torch.from_numpy(held["x_adv"])).argmax(1) == digits.y).any()
        assert (net(torch.from_numpy(held["x"])).argmax(1) == digits.y).all()
    reach = np.abs(held["x_adv"] - held["x"]).reshape(len(digits), -1).max(1)
    linf = held["threat"] == "linf:0.1"
    assert reach[linf] == pytest.approx(held["size"][linf], abs=1e-6)
    assert reach[linf].max() < 0.1 + 1e-6
    assert run.read_bytes() == before


def test_load_images_returns_the_same_arrays(run, robench, folder):
    robench("export", "r.robench", "--out", "adv.npz", "--threat", "l2:1.0")
    held, ours = arrays("adv.npz"), package.load_images(run, threats="l2:1")
    assert held.keys() == ours.keys()
    assert all(np.array_equal(held[key], ours[key]) for key in held)


def test_filters_choose_threats_attacks_and_examples(run):
    whole = package.load_images(run)
    some = package.load_images(run, examples="3:9", threats=["linf:0.1"])
    expected = (whole["threat"] == "linf:0.1") & (whole["example"] >= 3) & (whole["example"] < 9)
    assert some["example"].tolist() == whole["example"][expected].tolist()
    assert set(package.load_images(run, examples=2)["example"]) <= {0, 1}
    plan, evidence = content(run)
    quick = plan.threats[0].attacks[0]
    found, _ = exported.finds(plan, evidence, exported.Selection(attacks=["quick"]))
    assert {f.claim.example for f in found if f.threat == "linf:0.1"} == {
        c.example for c, _ in breaks(evidence, "linf:0.1") if c.attack == quick.spec
    }


@pytest.mark.parametrize("text", ["pgd(steps=3)", "pgd(random_start=False, steps=3)", "pgd(steps=3, restarts=1)"])
def test_an_attack_goes_by_what_was_typed_to_run_it(run, text):
    plan, evidence = content(run)
    by_text, by_label = (exported.finds(plan, evidence, exported.Selection(attacks=[name])) for name in (text, "quick"))
    assert by_text == by_label
    assert by_text[0]
    assert len(exported.finds(plan, evidence, exported.Selection(attacks=["pgd"]))[0]) > len(by_text[0])


@pytest.mark.parametrize("text", ["pgd(steps=7)", "pgd(2)", "pgd(steps=", "(steps=2)"])
def test_an_attack_with_other_numbers_is_not_planned(run, refused, text):
    assert "no planned attack is called" in refused("export", "r.robench", "--out", "a.csv", "--attack", text)


def test_the_attacks_of_a_run_are_listed_by_their_labels(run, refused):
    message = refused("export", "r.robench", "--out", "a.csv", "--attack", "zoo")
    assert message.endswith("no planned attack is called 'zoo'; there are pgd, quick, random")


def test_an_example_broken_by_a_smaller_image_of_another_radius_is_exported_with_it(run, robench, folder):
    command = ["evaluate", "digits-nat", "--threat", "linf:0.12", "--attack", "pgd(steps=1)", "--examples", "12"]
    assert robench(*command, "--run", "r.robench", "--quiet").code in (0, 2)
    plan, evidence = content(run)
    assert [t.threat for t in plan.threats] == ["linf:0.12"]
    found, _ = exported.finds(plan, evidence, exported.Selection())
    smallest = {}
    for claim, verdict in breaks(evidence, "linf:0.12"):
        smallest[claim.example] = min(verdict.size, smallest.get(claim.example, 1))
    assert {f.claim.example: f.verdict.size for f in found} == smallest
    assert any(f.claim.threat == "linf:0.1" for f in found)
    assert set(package.load_images(run)["threat"]) == {"linf:0.12"}


def test_rows_hold_every_outcome_and_its_cost(run, robench, folder, measured):
    said = robench("export", "r.robench", "--out", "rows.csv")
    assert said.out == "rows.csv: 24 rows\n"
    rows = list(csv.DictReader(Path("rows.csv").read_text().splitlines()))
    summary = Summary.from_json((measured / "s.json").read_text())
    outcomes = summary.examples()
    assert [row["outcome"] for row in rows] == outcomes["outcome"].tolist()
    assert [int(row["example"]) for row in rows] == outcomes["example"].tolist()
    assert sum(int(row["forwards"]) for row in rows) == summary.cost.forwards
    assert sum(int(row["backwards"]) for row in rows) == summary.cost.backwards
    for row in rows:
        assert (row["attack"] != "") == (row["size"] != "") == (row["outcome"] == "broken")
    assert {row["attack"] for row in rows} <= {"", "quick", "random"}


def test_rows_need_neither_model_nor_data(run, robench, folder):
    with sqlite3.connect(run) as db:
        db.execute("UPDATE environment SET value = '/nowhere/x.npz' WHERE key = 'data'")
    db.close()
    assert robench("export", "r.robench", "--out", "rows.csv", "--quiet").out == ""
    assert "there is no file /nowhere/x.npz" in robench("export", "r.robench", "--out", "a.npz").err
    assert robench("export", "r.robench", "--out", "a.npz", "--data", "digits").code == 0


@pytest.mark.costly
def test_a_sheet_shows_clean_adversarial_and_difference(run, robench, folder):
    said = robench("export", "r.robench", "--out", "sheet.png", "--threat", "linf:0.1")
    assert said.code == 0, said
    count = len(package.load_images(run, threats=["linf:0.1"])["y"])
    with Image.open("sheet.png") as image:
        assert image.format == "PNG"
        assert image.height > 200 * -(-count // 3)  # a line for three
    assert count < MAX
    first = Path("sheet.png").read_bytes()
    robench("export", "r.robench", "--out", "sheet.png", "--threat", "linf:0.1")
    assert Path("sheet.png").read_bytes() == first


def test_parquet_is_the_same_rows(run, robench, folder, monkeypatch):
    monkeypatch.setattr("robench.cli.export.importlib.util.find_spec", lambda name: object())
    written = []
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda frame, index: written.append(frame) or b"PAR1")
    assert robench("export", "r.robench", "--out", "rows.parquet").code == 0
    assert Path("rows.parquet").read_bytes() == b"PAR1"
    robench("export", "r.robench", "--out", "rows.csv")
    assert written[0].to_csv(index=False) == Path("rows.csv").read_text()


def test_without_pyarrow_the_error_names_the_package_to_install(run, refused, monkeypatch):
    monkeypatch.setattr("robench.cli.export.importlib.util.find_spec", lambda name: None)
    assert "needs pyarrow, which is not installed" in refused("export", "r.robench", "--out", "rows.parquet")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--out", "adv.txt"), "has a suffix that export does not know; end it with .npz, .png, .csv, .parquet"),
        (("--out", "r.robench"), "has a suffix that export does not know"),
        (("--out", "nowhere/adv.npz"), "cannot be written"),
        (("--out", "a.npz", "--threat", "linf:0.2"), "no planned threat is called 'linf:0.2'"),
        (("--out", "a.npz", "--threat", "lnf:0.1"), "no threat model is called 'lnf'"),
        (("--out", "a.csv", "--attack", "quik"), "did you mean quick"),
        (("--out", "a.csv", "--examples", "50:60"), "names none of the 12 examples"),
        (("--out", "a.csv", "--examples", "x"), "write a count like 100"),
        (("--out", "a.npz", "--data", "digits:train"), "holds other images than"),
    ],
)
def test_bad_input_is_one_line(run, refused, options, sentence):
    assert sentence in refused("export", "r.robench", *options)


def test_files_that_are_read_are_not_overwritten(run, refused, folder):
    whole = datasets.load("digits")
    np.savez(folder / "own.npz", x=whole.x[:20].numpy(), y=whole.y[:20].numpy())
    assert "would overwrite" in refused("export", "r.robench", "--out", "own.npz", "--data", "own.npz")


def test_a_slim_run_has_rows_and_no_images(run, robench, refused, folder):
    robench("merge", "r.robench", "--slim", "--out", "slim.robench")
    assert robench("export", "slim.robench", "--out", "rows.csv").code == 0
    assert "as runs merged with --slim do" in refused("export", "slim.robench", "--out", "adv.npz")


def test_a_run_of_arrays_is_exported_with_these_arrays(folder):
    whole = datasets.load("digits")
    data = whole.x[:6], whole.y[:6]
    net = load("digits-nat").classifier.module
    package.evaluate(net, data, threats=["linf:0.2"], attacks=["pgd(steps=5)"], run="a.robench")
    held = package.load_images("a.robench", data=data)
    assert np.array_equal(held["x"], whole.x[held["example"].tolist()].numpy())
    with pytest.raises(package.UserError, match="other images"):
        package.load_images("a.robench", data=(1 - data[0], data[1]))
    with pytest.raises(package.UserError, match=r"images that were given in Python \(data\)"):
        package.load_images("a.robench")


# Folders


@pytest.fixture
def pictures(folder):
    """Sixty digits as pictures of 40x30, in class order, the digits where the middle is."""
    whole = datasets.load("digits")
    for i in range(60):
        canvas = np.zeros((40, 30), dtype=np.uint8)
        canvas[6:34, 1:29] = np.round(whole.x[i, 0].numpy() * 255)
        place = folder / "val" / f"number {int(whole.y[i])}" / f"{i:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(canvas).save(place)
    names = {f"number {k}": k for k in range(10)}
    (folder / "map.json").write_text(json.dumps(names))
    return folder / "val"


def test_a_folder_is_evaluated_verified_checked_and_exported(pictures, robench, folder):
    tiny = ["--threat", "linf:0.1", "--attack", "pgd(steps=3)", "--run", "f.robench"]
    command = ["evaluate", "digits-nat", "--data", "val/", "--crop", "28", "--labels", "map.json", "--examples", "8"]
    said = robench(*command, "--shuffled", *tiny, "--json", "s.json")
    assert said.code == 0, said
    assert "classes of val: 0 number 0, 1 number 1" in said.out
    summary = package.load_run("f.robench")
    assert summary.data.name == "val"
    assert summary.clean.accuracy > 0.9
    assert robench("verify", "f.robench", "--quiet").code == 0  # finds crop and labels in the run
    assert robench("check", "digits-nat", "--baseline", "s.json", "--quiet").code == 0
    assert robench("export", "f.robench", "--out", "adv.npz").code == 0
    held = arrays("adv.npz")
    assert held["x"].shape[1:] == (1, 28, 28)
    assert content(Path("f.robench"))[0].examples == tuple(shuffled_rows(60)[:8])
    whole = datasets.load("val", preparation=Preparation(crop="28"))
    assert held["y"].tolist() == whole.y[held["example"]].tolist()
    assert len(set(held["y"].tolist())) > 2


def test_examples_of_a_single_class_are_noted(pictures, robench, folder):
    tiny = ["--threat", "linf:0.1", "--attack", "pgd(steps=1)", "--run", "f.robench", "--crop", "28"]
    said = robench("evaluate", "digits-nat", "--data", "val", "--examples", "12", *tiny)
    assert "mix the classes with --shuffled" in said.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--data", "digits", "--resize", "28"), "--resize 28 is for images in a folder"),
        (("--data", "val", "--resize", "x"), "--resize x is not a size"),
        (("--data", "val", "--labels", "nowhere.json"), "label map nowhere.json cannot be read"),
        (("--data", "nowhere/"), "there is no folder nowhere/"),
        (("--data", "."), "in its subfolders"),
    ],
)
def test_an_unsuitable_folder_is_one_line(pictures, refused, folder, options, sentence):
    if options[1] == ".":
        shutil.rmtree(pictures)
        (folder / "empty").mkdir()
    assert sentence in refused("evaluate", "digits-nat", *options, "--examples", "3")


def test_training_from_a_folder_is_refused(pictures, refused):
    assert "train does not read folders" in refused("train", "nat", "--data", "val", "--out", "m")


@pytest.mark.processes
def test_the_installed_command_exports(run, folder):
    before = files(folder)
    command = [str(Path(sys.executable).with_name("robench")), "export", "r.robench", "--out", "rows.csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert files(folder).keys() - before.keys() == {"rows.csv"}
