"""What `robench evaluate` says of a number that is not what it seems, and where there is none."""

import json

import numpy as np
import pytest
import torch

from robench.problem import datasets
from robench.problem.checkpoints import load

NETS = """
import torch
from torch import nn

class Base(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))

class Soft(Base):
    def forward(self, x):
        return super().forward(x).softmax(1)

class Percent(Base):
    def forward(self, x):
        return 100 * super().forward(x).softmax(1)

class Sure(Base):
    def forward(self, x):
        return (1e4 * super().forward(x)).softmax(1)

class Labels(Base):
    def forward(self, x):
        return nn.functional.one_hot(super().forward(x).argmax(1), 10).float()

class Centred(Base):
    def forward(self, x):
        return super().forward(x - x.mean(0))

class Rounds(Base):
    def forward(self, x):
        return super().forward((255 * x).byte().float() / 255)

class Chooses(Base):
    def forward(self, x):
        if bool((x[:, 0, 0, 0] > 0.9).any()):
            raise ValueError("a bright corner")
        return super().forward(x)
"""


@pytest.fixture
def net(folder):
    (folder / "nets.py").write_text(NETS)
    split = datasets.load("digits", "train")
    x, y = split.x.flatten(1), split.y
    weight = torch.linalg.lstsq(x.T @ x + 10 * torch.eye(784), x.T @ (torch.eye(10)[y] - 0.1)).solution
    torch.save({"1.weight": 5 * weight.T.contiguous(), "1.bias": torch.zeros(10)}, folder / "w.pt")
    return folder / "w.pt"


def evaluate(robench, kind, *words):
    few = ("--threat", "linf:0.05", "--attack", "pgd(steps=3)", "--examples", "40", "--precision", "float32")
    return robench("evaluate", "w.pt", "--arch", f"nets.py:{kind}", "--data", "digits", *few, *words)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Base", ""),
        ("Soft", "the outputs are probabilities, not logits:"),
        ("Percent", "in units of 1/100"),
        ("Sure", "the outputs take only two values"),
        ("Centred", "answers depend on the rest of the batch"),
    ],
)
def test_notes_on_unusual_outputs_are_below_the_table_and_in_the_summary(net, robench, folder, kind, words):
    result = evaluate(robench, kind, "--json", "s.json")
    assert result.code == 0
    notes = json.loads((folder / "s.json").read_text())["notes"]
    assert bool(notes) == bool(words)
    assert words in "; ".join(notes)
    assert ("Note: " in result.out) == bool(words)
    (run,) = (folder / "runs").glob("*.robench")
    again = robench("report", run, "--intervals")
    assert again.out == result.out, "a report shows the notes of its run"


def test_images_in_class_order_are_named(net, robench, folder):
    d = datasets.load("digits", "test")
    order = d.y.argsort(stable=True)
    np.savez(folder / "sorted.npz", x=d.x[order].numpy(), y=d.y[order].numpy())
    torch.save({"1.weight": torch.zeros(10, 784), "1.bias": torch.eye(10)[0]}, folder / "w.pt")
    result = evaluate(robench, "Base", "--data", "sorted.npz")
    assert "the 40 examples show 1 of 10 classes" in result.out
    assert "no better than always answering the most common label, class 0" in result.out


def test_a_note_that_no_longer_holds_is_removed(net, robench, folder):
    d = datasets.load("digits", "test")
    first = torch.cat([torch.where(d.y == 0)[0][:15], torch.where(d.y != 0)[0][:200]])
    np.savez(folder / "mixed.npz", x=d.x[first].numpy(), y=d.y[first].numpy())
    few = evaluate(robench, "Base", "--data", "mixed.npz", "--examples", "15")
    more = evaluate(robench, "Base", "--data", "mixed.npz", "--examples", "100")
    assert "show 1 of 10 classes" in few.out
    assert "classes" not in more.out


def test_a_radius_as_large_as_the_box_and_training_images_are_named(net, robench):
    result = evaluate(robench, "Base", "--threat", "linf:8", "--data", "digits:train")
    assert "8/255, not 8" in result.out
    assert "these are training images" in result.out


def test_training_images_of_the_model_are_noted_from_its_card(robench):
    few = ("--threat", "linf:0.05", "--attack", "pgd(steps=1)", "--examples", "20")
    result = robench("evaluate", "digits-nat", "--data", "digits:train", *few)
    assert "according to its card, the model was trained on these images; measure it on digits:test" in result.out


def test_images_that_the_training_held_out_are_noted_from_its_card(robench):
    words = "train nat --data digits --set steps=2 --set batch=16 --no-evaluation --quiet --validation 30 --out m"
    assert robench(*words.split()).code == 0
    few = ("--data", "digits:train", "--threat", "linf:0.05", "--attack", "pgd(steps=1)", "--examples")
    within = robench("evaluate", "m.safetensors", *few, "held-out:20").out
    assert "chosen with --examples held-out:20: robench train holds them out" in within
    assert "according to its card, the model was trained without these images" in within
    beyond = robench("evaluate", "m.safetensors", *few, "held-out:31").out
    assert "according to its card, the model was trained on 1 of these 31 images" in beyond


def test_if_every_attack_failed_there_is_no_table_and_no_summary(net, robench, folder):
    result = evaluate(robench, "Rounds", "--json", "s.json")
    assert result.code == 2
    assert result.out == ""
    last = result.err.splitlines()[-1]
    assert last.startswith(
        "Error: nothing was measured under linf:0.05: every planned attack failed (pgd: the model has no gradients"
    )
    assert not (folder / "s.json").exists()


@pytest.mark.costly
def test_only_the_threat_whose_attacks_all_failed_has_no_number(net, robench):
    rt = ("--threat", "rt:1px,1deg", "--attack", "grid", "--examples", "8")
    result = evaluate(robench, "Rounds", *rt)
    assert result.code == 2
    (row,) = [line for line in result.out.splitlines() if line.startswith("| w ")]
    _, linf, rt_cell, union, average = (cell.strip() for cell in row.strip("|").split("|")[1:])
    assert linf == "not measured"
    assert average == "not measured"
    assert "≤" in union
    assert "≤" not in rt_cell
    assert "nothing was measured under linf:0.05" in result.err


def test_a_clean_image_on_which_the_model_raises_is_open_and_the_others_are_measured(net, robench, folder):
    d = datasets.load("digits", "test").part("40")
    x = d.x.clone()
    x[3, 0, 0, 0] = 1.0
    np.savez(folder / "odd.npz", x=x.numpy(), y=d.y.numpy())
    result = evaluate(robench, "Chooses", "--data", "odd.npz", "--json", "s.json")
    assert result.code == 0
    summary = json.loads((folder / "s.json").read_text())
    assert summary["clean"]["open"] == 1
    assert summary["union"]["outcomes"][3] == "O"
    assert summary["union"]["outcomes"].count("O") == 1
    assert "clean: the model raises on 1 example (ValueError: a bright corner)" in result.out
    assert evaluate(robench, "Chooses", "--data", "odd.npz").out == result.out, "nor is anything left to do"


def test_check_counts_open_examples_for_neither_model(net, robench, folder):
    evaluate(robench, "Base", "--json", "base.json")
    result = robench("check", "w.pt", "--arch", "nets.py:Chooses", "--baseline", "base.json", "--precision", "float32")
    assert result.code in (0, 3)
    result = robench("check", "w.pt", "--arch", "nets.py:Rounds", "--baseline", "base.json", "--precision", "float32")
    assert result.code == 2


def test_bundled_models_cause_no_notes(robench):
    loaded = load("digits-adv-linf")
    assert loaded.card is not None
    few = ("--threat", "linf:0.2", "--attack", "pgd(steps=2)", "--examples", "100")
    result = robench("evaluate", "digits-adv-linf", *few)
    assert "Note: " not in result.out


def test_verify_repeats_the_error_of_a_model_that_raises_on_a_clean_image(net, robench, folder):
    d = datasets.load("digits", "test").part("12")
    x = d.x.clone()
    x[3, 0, 0, 0] = 1.0
    np.savez(folder / "odd.npz", x=x.numpy(), y=d.y.numpy())
    evaluate(robench, "Chooses", "--data", "odd.npz", "--examples", "12", "--run", "r.robench")
    result = robench("verify", "r.robench", "--arch", "nets.py:Chooses")
    assert result.code == 0, result
    other = robench("verify", "r.robench", "--arch", "nets.py:Base", "--model", "w.pt")
    assert other.code != 0
