"""`robench figures`: pictures of run files."""

import re
import shutil
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from robench.evidence.store import RunFile
from robench.problem import checkpoints
from robench.problem.datasets import load
from robench.results import figures

from .conftest import files

LOADED = ("landscape", "along", "first-layer", "features", "gallery")
DRAWN_WITH = "3.11.2"  # the pictures in docs/images; constraints.txt names it


@pytest.fixture
def slim(run, robench, folder):
    """The same run without its images."""
    assert robench("merge", "r.robench", "--slim", "--out", "slim.robench").code == 0
    return folder / "slim.robench"


@pytest.fixture
def other(run, measured_too, folder):
    """Another model asked the same."""
    return Path(shutil.copy(measured_too / "digits-adv-l1.robench", folder / "other.robench"))


def alter(path, change):
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()


@pytest.mark.costly
def test_every_possible_kind_is_drawn_and_the_others_are_noted(run, robench, folder):
    before = files(folder)
    result = robench("figures", "r.robench", "--out", "a/pictures", "--each", "1")
    assert result.code == 0
    made = [f"a/pictures/{kind}-digits-nat.svg" for kind in ("queries", *LOADED)]
    assert sorted(files(folder).keys() - before.keys()) == sorted(made)
    assert [line.partition(": ")[0] for line in result.out.splitlines()] == made
    assert all("digits:test, n = 12; protocol tiny; seed 0." in line for line in result.out.splitlines())
    assert result.err.splitlines() == [
        "note: no curve: r.robench holds no accuracy by radius; measure it with robench evaluate --curve and a"
        " minimum-norm attack",
        "note: no trade-off: r.robench has nothing to be compared with; add runs of other models with its data,"
        " examples, threats and attacks",
    ]
    assert {name: files(folder)[name] for name in before} == before
    for name in made:
        ET.parse(folder / name)


@pytest.mark.costly
def test_the_same_runs_give_the_same_bytes_in_any_folder(run, robench, folder, monkeypatch):
    words = ("--each", "1", *(word for kind in LOADED for word in ("--kind", kind)))
    robench("figures", "r.robench", "--out", "here", *words)
    (folder / "else").mkdir()
    shutil.copy(run, folder / "else" / "renamed.robench")
    monkeypatch.chdir(folder / "else")
    robench("figures", "renamed.robench", "--out", "there", *words)
    assert len(files(folder / "here")) == len(LOADED)
    assert files(folder / "here") == files(folder / "else" / "there")
    assert not any(str(folder).encode() in content for content in files(folder / "here").values())


def test_pictures_already_there_are_replaced(run, robench, folder):
    robench("figures", "r.robench", "--out", "p", "--kind", "queries")
    once = files(folder / "p")
    (folder / "p" / "queries-digits-nat.svg").write_text("old")
    robench("figures", "r.robench", "--out", "p", "--kind", "queries")
    assert files(folder / "p") == once


@pytest.mark.costly
def test_a_run_with_a_curve_is_drawn_with_the_shares_of_its_summary(run, robench, folder, monkeypatch):
    words = ("--threat", "l2:3", "--attack", "ddn", "--examples", "6", "--curve", "--run", "c.robench", "--quiet")
    assert robench("evaluate", "digits-nat", *words).code == 0
    seen = []
    monkeypatch.setattr(figures, "image_bytes", lambda picture, form: seen.append(picture) or b"")
    result = robench("figures", "c.robench", "--out", "p", "--kind", "curve")
    assert result.out.startswith("p/curve-digits-test.svg: Accuracy against radius")
    (line,) = seen[0].figure.axes[0].get_lines()
    with RunFile.read(folder / "c.robench") as file:
        evidence = file.evidence()
        correct = sum(c.correct for c in evidence.clean)
        smallest = {}
        for claim, verdict in evidence.judged():
            if verdict.accepted:
                smallest[claim.example] = min(verdict.size, smallest.get(claim.example, np.inf))
    for radius, height in zip(*line.get_data(), strict=True):
        assert height == pytest.approx(100 * (correct - sum(s <= radius for s in smallest.values())) / 6)
    assert line.get_ydata()[-1] < line.get_ydata()[0]


def test_two_models_are_compared_with_stars_at_the_threats_of_their_training(other, robench, folder):
    (folder / "card.toml").write_text(
        'name = "digits-nat"\ndata = "digits"\narchitecture = "digits-cnn"\nshape = [1, 28, 28]\nclasses = 10\n'
        'weights = "w.safetensors"\nsha256 = "0"\n[settings]\nthreats = ["l2:1"]\n'
    )
    words = ("figures", "r.robench", "other.robench", "--out", "p", "--kind", "trade-off")
    assert "Stars" not in robench(*words).out
    assert "Stars" in robench(*words, "--card", "card.toml").out


def test_pictures_of_models_with_the_same_name_get_distinct_names(run, robench, folder):
    shutil.copy(run, folder / "again.robench")
    robench("figures", "r.robench", "again.robench", "--out", "p", "--kind", "queries")
    assert sorted(files(folder / "p")) == ["queries-digits-nat-2.svg", "queries-digits-nat.svg"]


def test_the_gallery_shows_images_of_the_run_with_the_predictions(run, robench, folder, monkeypatch):
    seen = []
    real = figures.galleries
    monkeypatch.setattr(figures, "galleries", lambda summary, shown: seen.extend(shown) or real(summary, shown))
    assert robench("figures", "r.robench", "--out", "p", "--kind", "gallery", "--each", "2").code == 0
    digits = load("digits")
    with RunFile.read(run) as file:
        kept = {image.tobytes() for _, image in file.images((1, 28, 28))}
        found = {(c.threat, c.example) for c, v in file.evidence().judged() if v.accepted}
    expected = [threat for threat in ("linf:0.1", "l2:1") for _ in range(min(2, sum(t == threat for t, _ in found)))]
    assert [one.threat for one in seen] == expected
    for one in seen:
        assert one.adversarial.tobytes() in kept
        np.testing.assert_array_equal(one.clean, digits.x[one.example].numpy())
        assert one.label == int(digits.y[one.example])
        assert one.answer != one.label
        delta = np.abs(one.adversarial.astype(float) - one.clean)
        measured = delta.max() if one.threat == "linf:0.1" else np.sqrt((delta**2).sum())
        assert one.size == pytest.approx(measured, rel=1e-6)
    assert [one.size for one in seen[:2]] == sorted(one.size for one in seen[:2])


def test_landscapes_show_the_first_correctly_classified_images(run, robench, folder, monkeypatch):
    seen = []
    real = figures.landscapes
    monkeypatch.setattr(figures, "landscapes", lambda summary, found: seen.extend(found) or real(summary, found))
    alter(run, "UPDATE clean SET correct = 0 WHERE example = 0")
    assert robench("figures", "r.robench", "--out", "p", "--kind", "landscape", "--each", "2").code == 0
    assert [(one.example, one.threat) for one in seen] == [
        (example, threat) for example in (1, 2) for threat in ("linf:0.1", "l2:1")
    ]
    assert all(one.margin[20, 20] < 0 for one in seen)


def test_lines_start_at_the_logits_of_the_first_correctly_classified_images(run, robench, folder, monkeypatch):
    seen = []
    real = figures.walks
    monkeypatch.setattr(figures, "walks", lambda summary, found: seen.extend(found) or real(summary, found))
    alter(run, "UPDATE clean SET correct = 0 WHERE example = 0")
    assert robench("figures", "r.robench", "--out", "p", "--kind", "along", "--each", "2").code == 0
    assert [(one.example, one.threat) for one in seen] == [
        (example, threat) for example in (1, 2) for threat in ("linf:0.1", "l2:1")
    ]
    digits, net = load("digits"), checkpoints.load("digits-nat").classifier
    for one in seen:
        logits = net(digits.x[one.example][None])[0].tolist()
        right = logits.pop(one.label)
        assert one.label == int(digits.y[one.example])
        np.testing.assert_allclose(one.margin[:, 0], max(logits) - right, rtol=1e-4)
        assert one.margin[0, -1] > one.margin[0, 0]


@pytest.mark.costly
def test_the_first_layer_shows_the_models_filters_and_black_pixels(run, robench, folder, monkeypatch):
    seen = []
    real = figures.first_layers
    monkeypatch.setattr(figures, "first_layers", lambda *result: seen.append(result) or real(*result))
    assert robench("figures", "r.robench", "--out", "p", "--kind", "first-layer", "--each", "2").code == 0
    ((_, layer, raised),) = seen
    net = checkpoints.load("digits-nat").classifier.module
    (weight,) = (m.weight for name, m in net.named_modules() if name.endswith("conv1"))
    np.testing.assert_array_equal(layer.weight, weight.detach().numpy())
    assert [one.example for one in raised] == [0, 1]
    for one in raised:
        np.testing.assert_array_equal(one.image, load("digits").x[one.example].numpy())
        assert all(one.image[0, row, column] == 0 for row, column in one.pixels)
        assert (one.loss[:, -1] >= one.loss[:, 0]).all()


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("Identity()", "model shows no convolution as its first layer, so no filters; leave it out"),
        ("Conv2d(3, 3, 1)", "r.robench is about images without black pixels, so there is none to raise; leave it out"),
    ],
)
def test_without_a_convolution_or_black_pixels_there_is_no_first_layer(
    images, robench, refused, folder, first, message
):
    (folder / "net.py").write_text(
        f"from torch.nn import *\ndef build(): return Sequential({first}, Flatten(), Linear(432, 4))\n"
    )
    head = {"2.weight": torch.zeros(4, 432), "2.bias": torch.tensor([1.0, 0, 0, 0])}  # right on every fourth
    layer = {"0.weight": torch.ones(3, 3, 1, 1), "0.bias": torch.zeros(3)} if "Conv" in first else {}
    torch.save(head | layer, folder / "model.pt")
    words = ("--data", "images.npz", "--arch", "net.py:build", "--normalise", "none", "--protocol", "tiny.toml")
    assert robench("evaluate", "model.pt", *words, "--run", "r.robench", "--quiet").code == 0
    assert message in refused("figures", "r.robench", "--out", "p", "--kind", "first-layer", "--arch", "net.py:build")


def test_features_are_those_of_the_model_for_clean_and_broken_images(run, robench, folder, monkeypatch):
    seen = []
    real = figures.feature_planes
    monkeypatch.setattr(figures, "feature_planes", lambda *result: seen.append(result) or real(*result))
    assert robench("figures", "r.robench", "--out", "p", "--kind", "features").code == 0
    ((_, classes, panels),) = seen
    assert [panel.title for panel in panels] == ["clean", "linf:0.1", "l2:1"]
    digits, net = load("digits"), checkpoints.load("digits-nat").classifier
    shown = [row for row in range(12) if int(digits.y[row]) in classes]
    for panel in panels:
        assert panel.labels.tolist() == digits.y[shown].tolist()
    clean = panels[0]
    assert clean.answers.tolist() == net(digits.x[shown]).argmax(1).tolist()
    with RunFile.read(folder / "r.robench") as file:
        evidence = file.evidence()
    for panel in panels[1:]:
        broken = {c.example for c, v in evidence.judged() if v.accepted and c.threat == panel.title}
        moved = (panel.places != clean.places).any(1)
        assert [row in broken for row in shown] == moved.tolist() == (panel.answers != panel.labels).tolist()


def test_quiet_prints_only_names(run, robench, folder):
    alter(run, "UPDATE environment SET value = 'gone.safetensors' WHERE key = 'checkpoint'")
    result = robench("figures", "r.robench", "--out", "p", "--quiet")
    assert result.err == ""
    assert result.out == "p/queries-digits-nat.svg\n"


# What cannot be drawn


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kind", "galery"), "no kind of figure is called 'galery'; did you mean gallery?"),
        (("--format", "pdf"), "no format is called 'pdf'; there are png, svg"),
        (("--kind", "queries", "--kind", "curve"), "r.robench holds no accuracy by radius; measure it with robench"),
        (("--kind", "trade-off"), "r.robench has nothing to be compared with; add runs of other models"),
        (("--kind", "landscape", "--model", "digits-adv-l1"), "digits-adv-l1 is not the model of r.robench"),
        (("--kind", "along", "--model", "digits-adv-l1"), "digits-adv-l1 is not the model of r.robench"),
        (("--kind", "gallery", "--model", "gone.pt"), "gone.pt"),
        (("--kind", "gallery", "--data", "images.npz"), "holds other images than r.robench is about"),
        (("--each", "0"), "0 is not in the range 1<=x<=12"),
        (("--card", "none.toml"), "the card none.toml cannot be read"),
    ],
)
def test_an_impossible_figure_is_refused_in_a_sentence(run, images, refused, words, message):
    if "images.npz" in words:
        np.savez(images, x=np.zeros((12, 1, 28, 28), np.float32), y=np.arange(12) % 10)
    assert message in refused("figures", "r.robench", "--out", "p", *words)


@pytest.mark.costly
def test_a_run_without_images_has_no_gallery(slim, refused, robench):
    result = "slim.robench holds no images, as runs merged with --slim do"
    assert result in refused("figures", "slim.robench", "--out", "p", "--kind", "gallery")
    rest = robench("figures", "slim.robench", "--out", "p", "--each", "1")
    assert rest.code == 0
    assert f"note: no gallery: {result}" in rest.err


def test_queries_are_drawn_even_if_the_model_is_missing(run, robench, refused):
    alter(run, "UPDATE environment SET value = 'gone.safetensors' WHERE key = 'checkpoint'")
    assert "gone.safetensors" in refused("figures", "r.robench", "--out", "p", "--kind", "landscape")
    result = robench("figures", "r.robench", "--out", "p")
    assert result.out.startswith("p/queries-digits-nat.svg: ")
    assert all(f"note: no {kind}: " in result.err for kind in LOADED)


def test_a_damaged_image_is_named_and_nothing_is_drawn(run, refused):
    alter(run, "UPDATE claim SET sha256 = 'no' WHERE image IS NOT NULL")
    assert "differs from its checksum" in refused("figures", "r.robench", "--out", "p", "--kind", "gallery")


def test_the_option_model_takes_one_run(other, refused):
    result = refused("figures", "r.robench", "other.robench", "--out", "p", "--model", "digits-nat")
    assert "--model locates the model of a single run" in result


def test_a_card_of_a_model_without_a_run_is_refused(run, refused, folder):
    (folder / "card.toml").write_text(
        'name = "stranger"\ndata = "digits"\narchitecture = "digits-cnn"\nshape = [1, 28, 28]\nclasses = 10\n'
        'weights = "w.safetensors"\nsha256 = "0"\n'
    )
    result = refused("figures", "r.robench", "--out", "p", "--card", "card.toml")
    assert "none of these runs is about stranger" in result


@pytest.mark.parametrize("name", ["none.robench", "tiny.toml"])
def test_a_file_that_is_not_a_run_is_refused(folder, refused, name):
    assert name in refused("figures", name, "--out", "p")


def test_out_must_be_a_folder(run, refused, folder):
    assert "r.robench is a file; name a folder" in refused(
        "figures", "r.robench", "--out", "r.robench", "--kind", "queries"
    )
    below = refused("figures", "r.robench", "--out", "r.robench/p", "--kind", "queries")
    assert "r.robench/p cannot be created" in below


def test_help_does_not_wait_for_matplotlib():
    code = "import sys, robench.cli.main; print('matplotlib' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "figures.md").read_text()


@pytest.mark.costly
@pytest.mark.skipif(matplotlib.__version__ != DRAWN_WITH, reason="another matplotlib may draw otherwise")
@pytest.mark.parametrize("kind", ["curve", "trade-off", "queries"])
def test_committed_pictures_are_reproduced_by_their_commands(kind, robench, folder, monkeypatch):
    (words,) = re.findall(rf"^robench (figures .* --kind {kind})$", PAGE, re.M)
    monkeypatch.chdir(ROOT)
    expanded = [name for word in words.split() for name in (sorted(map(str, Path().glob(word))) or [word])]
    out = expanded.index("docs/images")
    result = robench(*expanded[:out], folder / "again", *expanded[out + 1 :])
    assert result.code == 0
    ((name, drawn),) = files(folder / "again").items()
    assert drawn == (ROOT / "docs" / "images" / name).read_bytes()


def test_every_committed_picture_is_small_and_in_the_docs():
    pictures = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()}
    assert set(re.findall(r"\(\.\./images/([^)]+)\)", PAGE)) == set(pictures)
    assert all(size < 200_000 for size in pictures.values())
