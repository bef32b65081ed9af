"""Commands that read: report, verify, merge, list and the help of all."""

import csv
import hashlib
import io
import json
import shlex
import shutil
import sqlite3
import subprocess
import sys
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch

from robench import load_run
from robench.cli.listing import KINDS
from robench.cli.main import COMMANDS
from robench.evidence.store import RunFile
from robench.problem.architectures import ARCHITECTURES
from robench.problem.checkpoints import locate
from robench.problem.checkpoints.zoo import zoo_names
from robench.problem.datasets import DATASETS, load
from robench.problem.threats import THREATS
from robench.protocols import names
from robench.protocols.suites import SUITES
from robench.recipes import RECIPES
from robench.search.attacks import ATTACKS

from .conftest import PROTOCOL, files, run_once


def altered(path, change, *values):
    """A run file after a change behind our back."""
    with sqlite3.connect(path) as db:
        db.execute(change, values)
    db.close()


def outcomes(folder, name="s.json"):
    return {t["threat"]: t["outcomes"] for t in json.loads((folder / name).read_text())["threats"]}


# report


def test_the_report_is_the_table_that_was_printed(run, robench):
    printed = robench("evaluate", "digits-nat", "--protocol", "tiny.toml", "--run", "r.robench", "--breakdown")
    assert robench("report", "r.robench", "--intervals", "--breakdown").out == printed.out


def test_a_report_as_json_is_the_summary(run, robench, folder):
    result = json.loads(robench("report", "r.robench", "--format", "json").out)
    assert result == json.loads((folder / "s.json").read_text())


def test_a_report_as_csv_has_a_row_per_threat(run, robench, folder):
    summary = json.loads((folder / "s.json").read_text())
    rows = list(csv.DictReader(io.StringIO(robench("report", "r.robench", "--format", "csv").out)))
    expected = {t["threat"]: t["accuracy"] for t in summary["threats"]}
    expected |= {"union": summary["union"]["accuracy"], "average": summary["average"]["accuracy"]}
    assert {row["threat"]: float(row["accuracy"]) for row in rows} == pytest.approx(expected)


def test_reports_change_no_file_and_are_reproducible(run, robench, folder):
    shutil.copy(run, folder / "again.robench")
    before = files(folder)
    first = robench("report", "r.robench", "again.robench", "--breakdown")
    assert first.code == 0
    assert first.out == robench("report", "r.robench", "again.robench", "--breakdown").out
    assert files(folder) == before


def test_a_run_file_is_loaded_as_the_summary_that_was_written(run, folder):
    assert load_run(run).to_json() == (folder / "s.json").read_text()


def test_a_notebook_shows_a_summary_as_the_table_that_is_printed(run, robench):
    shown = load_run(run)._repr_html_()
    printed = robench("report", "r.robench", "--intervals", "--format", "html").out
    assert shown in printed
    assert "<table>" in shown


# verify


def test_true_evidence_is_verified(run, robench, folder):
    before = files(folder)
    result = robench("verify", "r.robench")
    assert result.code == 0
    with RunFile.read(run) as file:
        images = len({(c.example, c.threat) for c, v in file.evidence().judged() if v.accepted})
    assert f"12 clean answers and {images} adversarial images judged again: all hold" in result.out
    assert files(folder) == before


def kept(run):
    """(claim, example, threat) of one image that the run keeps."""
    with RunFile.read(run) as file:
        claims = {c.id: c for c in file.evidence().claims}
        claim = next(claims[number] for number, _ in file.images((1, 28, 28)))
    return claim.id, claim.example, claim.threat


def put_image(run, claim, pixels):
    """Another image, with a checksum that fits it."""
    packed = zlib.compress(pixels.astype("<f4").tobytes())
    sha256 = hashlib.sha256(pixels.astype("<f4").tobytes()).hexdigest()
    altered(run, "UPDATE claim SET image = ?, encoding = 'f4', sha256 = ? WHERE id = ?", packed, sha256, claim)


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (lambda x: x, "its image does not fool the model: margin -"),
        (lambda x: 1 - x, "its image lies at 1, outside linf:0.1"),
        (lambda x: x * 0.99 - 0.005, "its image leaves the pixel range"),
        (lambda x: x * np.nan, "its image has pixels that are not finite"),
    ],
)
def test_a_forged_image_is_named(run, robench, forge, message):
    claim, example, threat = kept(run)
    assert threat == "linf:0.1"
    put_image(run, claim, forge(load("digits").x[example].numpy()))
    verified = robench("verify", "r.robench")
    assert verified.code == 1
    (line,) = verified.err.splitlines()
    assert line.startswith(f"example {example} under {threat}: {message}")
    assert "1 do not hold" in verified.out


def test_a_forged_verdict_is_named(run, robench):
    with RunFile.open(run) as file:
        example = next(c.example for c in file.evidence().clean if c.correct)
    altered(run, "INSERT INTO claim VALUES (9999, ?, 'linf:0.05', 'x()', 0, -1, NULL, NULL, NULL, NULL, 1, 1)", example)
    altered(run, "INSERT INTO verdict VALUES (9999, 1, '', '', 0.05, 1.0, 1)")
    result = robench("verify", "r.robench")
    assert result.code == 1
    assert result.err == f"example {example} under linf:0.05: broken by an image that is not kept\n"


def test_a_forged_clean_answer_is_named(run, robench):
    altered(run, "UPDATE clean SET correct = 1 - correct WHERE example = 5")
    result = robench("verify", "r.robench")
    assert result.code == 1
    assert "example 5: recorded as " in result.err


def test_an_image_whose_bytes_were_changed_is_named(run, refused):
    claim, example, _ = kept(run)
    altered(run, "UPDATE claim SET image = zeroblob(100) WHERE id = ?", claim)
    assert f"the image of example {example} differs from its checksum" in refused("verify", "r.robench")


def test_a_run_with_a_damaged_image_is_not_continued_and_stays_as_it_is(run, refused):
    claim, _, _ = kept(run)
    altered(run, "UPDATE claim SET image = zeroblob(100) WHERE id = ?", claim)
    words = "evaluate digits-nat --protocol tiny.toml --threat linf:0.2 --run r.robench"
    assert "differs from its checksum" in refused(*shlex.split(words))


@pytest.mark.precision
def test_a_run_on_own_files_is_verified_from_any_folder(images, robench, folder, monkeypatch):
    (folder / "net.py").write_text(
        "from torch.nn import *\ndef build(): return Sequential(Flatten(), Linear(432, 4))\n"
    )
    torch.manual_seed(0)
    torch.save({"1.weight": torch.randn(4, 432) / 20, "1.bias": torch.zeros(4)}, folder / "model.pt")
    words = shlex.split(
        "--data images.npz --arch net.py:build --normalise 0.5/0.25 --protocol tiny.toml --run r.robench"
    )
    assert robench("evaluate", "model.pt", *words).code == 0
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    words = "verify", "../r.robench", "--arch", "../net.py:build"  # code is named again, by whoever runs it
    assert robench(*words).code == 0
    shutil.move(folder / "model.pt", folder / "moved.pt")
    shutil.move(folder / "images.npz", folder / "renamed.npz")
    assert robench(*words).code == 2
    result = robench(*words, "--model", "../moved.pt", "--data", "../renamed.npz")
    assert result.code == 0, result.err


# merge


@pytest.fixture(scope="session")
def measured_in_halves(tmp_path_factory):
    """Two runs of one model on seven examples each, three of them shared, and one on all of them."""
    folder = tmp_path_factory.mktemp("halves")
    (folder / "tiny.toml").write_text(PROTOCOL)
    for name, examples in (("a", "0:7"), ("b", "5:12"), ("whole", "0:12")):
        words = "evaluate", "digits-nat", "--protocol", folder / "tiny.toml", "--quiet", "--examples", examples
        run_once(*words, "--run", folder / f"{name}.robench", "--json", folder / f"{name}.json")
    return folder


@pytest.fixture
def halves(measured_in_halves, folder):
    """These runs in the working folder."""
    shutil.copytree(measured_in_halves, folder, dirs_exist_ok=True)
    return folder


@pytest.mark.precision
def test_merged_halves_are_the_whole(halves, robench):
    result = robench("merge", "a.robench", "b.robench", "--out", "m.robench")
    assert (result.code, result.err) == (0, "")
    assert result.out == robench("report", "m.robench", "--intervals").out
    summary = json.loads(robench("report", "m.robench", "--format", "json").out)
    assert {t["threat"]: t["outcomes"] for t in summary["threats"]} == outcomes(halves, "whole.json")
    whole = json.loads((halves / "whole.json").read_text())
    assert summary["data"] == whole["data"]
    assert summary["union"] == whole["union"]
    verified = robench("verify", "m.robench")
    assert verified.code == 0, verified.err


@pytest.mark.precision
def test_runs_searched_in_different_precisions_are_merged_with_a_note_and_the_page_shows_it(folder, robench):
    words = shlex.split("evaluate digits-nat --protocol tiny.toml --quiet --examples 4")
    for precision in ("float32", "bfloat16"):
        assert robench(*words, "--precision", precision, "--run", f"{precision}.robench").code == 0
    result = robench("merge", "float32.robench", "bfloat16.robench", "--out", "m.robench")
    assert result.err == (
        "note: searched in different precisions: float32.robench in float32, bfloat16.robench in bfloat16\n"
    )
    remark = "Searched partly in bfloat16 and partly in float32: single outcomes may depend on which.\n"
    assert remark in result.out
    assert remark in robench("report", "m.robench").out
    (environment,) = [json.loads(robench("report", "m.robench", "--format", "json").out)["environment"]]
    assert environment["precision"] == "bfloat16: as named | float32: as named"
    result = robench("merge", "m.robench", "float32.robench", "--out", "again.robench")
    assert "m.robench in bfloat16 and float32, float32.robench in float32" in result.err
    alike = robench("merge", "float32.robench", "float32.robench", "--out", "alike.robench")
    assert (alike.err, "Searched partly" in alike.out) == ("", False)


@pytest.mark.precision
def test_the_order_of_merging_does_not_matter_nor_does_merging_twice(halves, robench):
    tables = set()
    for number, order in enumerate(("a b", "b a", "a a b", "b a whole b")):
        robench("merge", *(f"{name}.robench" for name in order.split()), "--out", f"{number}.robench")
        summary = json.loads(robench("report", f"{number}.robench", "--format", "json").out)
        tables.add(json.dumps([t["outcomes"] for t in summary["threats"]]))
    assert len(tables) == 1


@pytest.mark.precision
def test_merging_reads_and_leaves_its_sources_as_they_are(halves, robench):
    before = files(halves)
    robench("merge", "a.robench", "b.robench", "--out", "m.robench")
    after = files(halves)
    assert after.pop("m.robench")
    assert after == before


@pytest.mark.precision
def test_a_slim_run_has_no_images_and_cannot_be_verified(halves, robench):
    robench("merge", "a.robench", "--slim", "--out", "slim.robench")
    with RunFile.read(halves / "slim.robench") as run:
        assert list(run.images((1, 28, 28))) == []
        broken = {(c.example, c.threat) for c, v in run.evidence().judged() if v.accepted}
    table = json.loads(robench("report", "slim.robench", "--format", "json").out)
    assert {t["threat"]: t["outcomes"] for t in table["threats"]} == outcomes(halves, "a.json")
    result = robench("verify", "slim.robench")
    assert result.code == 1
    assert result.err.count("broken by an image that is not kept") == len(broken) > 0
    assert result.err.endswith(
        "slim.robench is slim: its images were left out, so it does not verify; name the whole run\n"
    )


def test_a_slim_run_names_no_folder_of_the_machine(folder, robench):
    words = [
        "digits-nat",
        "--protocol",
        str(folder / "tiny.toml"),
        "--examples",
        "2",
        "--run",
        str(folder / "r.robench"),
    ]
    assert robench("evaluate", *words).code == 0
    robench("merge", "r.robench", "--slim", "--out", "slim.robench")
    assert str(folder).encode() in (folder / "r.robench").read_bytes()
    assert str(folder).encode() not in (folder / "slim.robench").read_bytes()
    with RunFile.read(folder / "slim.robench") as run:
        command = run.evidence().environment["command"]
    assert command.endswith("evaluate digits-nat --protocol tiny.toml --examples 2 --run r.robench")


def test_runs_of_other_models_or_data_are_not_merged(halves, robench, refused):
    words = shlex.split("--protocol tiny.toml --quiet --examples 3 --run")
    robench("evaluate", "digits-adv-linf", *words, "other.robench")
    robench("evaluate", "digits-nat", "--data", "digits:train", *words, "train.robench")
    result = refused("merge", "a.robench", "other.robench", "--out", "m.robench")
    assert "other.robench is about another model (digits-adv-linf) than a.robench (digits-nat)" in result
    result = refused("merge", "a.robench", "train.robench", "--out", "m.robench")
    assert "train.robench is about digits:train, a.robench about digits:test" in result


def test_merging_a_damaged_file_leaves_nothing_behind(halves, robench, refused):
    altered(halves / "b.robench", "UPDATE clean SET digest = 'another' WHERE example = 6")
    result = refused("merge", "a.robench", "b.robench", "--out", "m.robench")
    assert "example 6 is not the same image in these runs" in result
    assert not (halves / "m.robench").exists()


# list


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("attacks", [*ATTACKS, *SUITES, "foolbox:NAME"]),
        ("threats", THREATS),
        ("protocols", names()),
        ("recipes", RECIPES),
        ("data", DATASETS),
        ("models", zoo_names()),
        ("architectures", ARCHITECTURES),
    ],
)
def test_each_entry_of_a_list_is_one_line(robench, kind, expected):
    result = robench("list", kind)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    names = [THREATS[name].form if kind == "threats" else name for name in expected]
    assert [line.split()[0] for line in lines] == names
    assert all(len(line.split()) > 3 for line in lines), "a name alone explains nothing"


def test_the_list_of_models_shows_their_training_and_robust_accuracy(robench):
    result = robench("list", "models", "digits-sat").out
    assert result.split()[:4] == ["digits-sat", "digits", "digits-cnn", "sat"]
    assert "Against linf:0.2, l2:2, l1:10. Of 200 under quick with a masking check, percent: clean 98.0" in result
    assert "union 15.0" in result
    assert "under standard-mnist, own threats, percent: clean" in robench("list", "models", "mnist-small-adv-rt").out
    with_check = robench("list", "models", "cifar10-small-nat").out
    assert "under standard-cifar10, own threats with a masking check, percent: clean" in with_check


def test_the_list_of_models_shows_whether_the_weights_are_here_or_how_to_get_them(robench, monkeypatch, folder):
    monkeypatch.setattr("pooch.os_cache", lambda name: folder / "cache")
    monkeypatch.delenv("ROBENCH_ZOO", raising=False)
    assert robench("list", "models", "digits-nat").out.endswith(" Its weights are here.\n")
    assert robench("list", "models", "mnist-nat").out.endswith(" Its weights are to be trained.\n")
    monkeypatch.setenv("ROBENCH_ZOO", "https://user:secret@zoo.example/models")
    shown = robench("list", "models", "mnist-nat").out
    assert shown.endswith(" Its weights are to be fetched from zoo.example, or trained.\n")


def test_every_kind_of_list_is_tested():
    assert set(KINDS) == {"attacks", "threats", "protocols", "recipes", "data", "models", "architectures"}


def test_a_verbosely_listed_protocol_is_a_valid_protocol_file(robench, folder):
    result = robench("list", "protocols", "-v")
    assert result.code == 0
    for name in names():
        assert 'threat = "' in result.out
        assert any(line.startswith(name) for line in result.out.splitlines())


# help


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_shows_an_example_and_every_option_is_explained(robench, name):
    result = robench(name, "--help")
    assert (result.code, result.err) == (0, "")
    assert any(line.strip().startswith(f"robench {name} ") for line in result.out.splitlines())
    assert "--debug" in result.out
    assert result.out == robench(name, "-h").out


def test_robench_alone_prints_its_help(robench):
    result = robench()
    assert (result.code, result.err) == (0, "")
    assert result.out == robench("--help").out
    assert all(name in result.out for name in COMMANDS)


def test_the_module_is_the_command_and_help_does_not_wait_for_torch(tmp_path):
    code = """
import sys
sys.argv = ["robench", "--help"]
try:
    import robench.__main__
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "robench evaluate" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_the_weights_of_a_bundled_model_are_a_plain_checkpoint_too(robench, folder):
    torch.save({"state_dict": safetensors.torch.load_file(locate("digits-nat")[0])}, folder / "copy.pt")
    words = shlex.split("--protocol tiny.toml --data digits --examples 3 --json s.json")
    result = robench("evaluate", "copy.pt", *words)
    assert result.code == 0
    assert "note: recognised as digits-cnn by its key names and shapes" in result.err


def test_a_protocol_is_printed_with_its_cost_for_a_model_of_its_data(robench):
    result = robench("list", "protocols", "standard-digits", "-v", "--model", "digits-nat")
    assert result.code == 0
    assert len([line for line in result.out.splitlines() if line.split("  ")[0] in names()]) == 1
    assert "An example of 10 classes that no attack breaks costs" in result.out
    assert " 500 of them take up to " in result.out
    other = robench("list", "protocols", "tramer2019-mnist-lp", "-v", "--model", "digits-nat")
    assert "costs" in other.out
    assert "of them take" not in other.out


def test_a_protocol_is_printed_with_the_cost_of_each_attack_and_of_all_up_to_it(robench):
    lines = robench("list", "protocols", "quick", "-v").out.splitlines()
    tables = [line.split() for line in lines[lines.index(next(line for line in lines if "no attack breaks" in line)) :]]
    start = tables.index(["l1:10", "searches", "gradients", "total"])
    assert tables[start + 1 : start + 5] == [
        ["pgd", "1", "41", "41"],
        ["slide", "1", "101", "142"],
        ["apgd-ce", "1", "103", "245"],
        ["apgd-t", "5", "515", "760"],
    ]
    widths = {len(line) for line in lines if line.startswith(("l1:10 ", "pgd  ", "slide  ", "apgd-ce  "))}
    assert len(widths) == 2, "columns are aligned: one width under l1, and one under both other threats"
    for word in ("standing", "falling"):
        assert len([line for line in lines if line.startswith(f"{word}: ")]) == 1


def test_forward_passes_alone_have_columns_of_their_own_where_an_attack_makes_any(robench):
    out = robench("list", "protocols", "standard-l0", "-v").out
    assert "10 classes are assumed, as the protocol names no data set" in out
    rows = [line.split() for line in out.splitlines()]
    start = rows.index(["l0:10", "searches", "gradients", "total", "forward", "passes", "total"])
    assert rows[start + 3] == ["pointwise", "1", "0", "1,102", "2,000", "2,000"]


def test_a_protocol_that_was_made_for_other_data_is_used_with_a_note(robench, folder):
    (folder / "tiny.toml").write_text('data = "mnist"\n' + (folder / "tiny.toml").read_text())
    result = robench("evaluate", "digits-nat", "--protocol", "tiny.toml")
    assert result.code == 0
    assert "note: the protocol tiny was made for mnist; these are digits:test" in result.err


def test_models_evaluated_with_more_restarts_are_in_a_separate_table(robench, folder):
    for restarts in (1, 2):
        words = "--threat", "linf:0.1", "--attack", f"pgd(steps=2, restarts={restarts})", "--examples", "4"
        model = ["digits-nat", "digits-adv-linf"][restarts - 1]
        assert robench("evaluate", model, *words, "--run", f"{restarts}.robench", "--quiet").code == 0
    result = robench("report", "1.robench", "2.robench")
    assert "these runs answer 2 questions" in result.err


def test_a_run_that_is_named_twice_is_shown_once(run, robench):
    result = robench("report", "r.robench", "r.robench")
    assert result.out == robench("report", "r.robench").out
    assert "named twice" in result.err
