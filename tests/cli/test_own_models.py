"""Checkpoints as other tools leave them, and networks of one's own, through the commands."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from robench.problem.checkpoints import locate
from robench.problem.checkpoints.cards import read_card

EVALUATE = "--data", "digits", "--threat", "linf:0.1", "--attack", "pgd(steps=2)", "--examples", "12", "--quiet"
CODE = """
from torch import nn

class Viewing(nn.Module):
    def __init__(self, width=4, num_classes=10, in_channels=1, shape=None):
        super().__init__()
        height, across = (-(-side // 2) for side in shape[1:])
        self.conv = nn.Conv2d(in_channels, width, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(width * height * across, num_classes)

    def forward(self, x):
        return self.fc(self.drop(self.conv(x).relu()).flatten(1))

class Twofold(Viewing):
    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits

class Raising(Viewing):
    def forward(self, x):
        if self.training:
            raise ValueError("no labels")
        return super().forward(x)

class Maps(Viewing):
    def forward(self, x):
        return self.fc(self.conv(x).relu().view(x.size(0), -1))
"""
TRAIN = "--threat", "linf:0.1", "--set", "steps=3", "--set", "batch=16", "--set", "inner_steps=1", "--validation", "0"


@pytest.fixture
def weights():
    """A trained network for 1x28x28 images and ten classes, as a state dict."""
    return safetensors.torch.load_file(locate("digits-nat")[0])


@pytest.fixture
def own(folder):
    (folder / "net.py").write_text(CODE)
    return folder / "net.py"


def at(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


FAMILIES = {
    "Lightning": lambda w: {"state_dict": at("net.", w) | {"loss.weight": torch.ones(10)},
                            "hyper_parameters": {"lr": 1}},
    "timm": lambda w: {"state_dict": w, "state_dict_ema": {key: 0 * value for key, value in w.items()}},
    "robustness": lambda w: {"model": at("module.model.", w) | at("module.attacker.model.", w)
                             | {"module.normalizer.new_mean": torch.zeros(1, 1, 1),
                                "module.normalizer.new_std": torch.ones(1, 1, 1)}},
    "RobustBench": lambda w: w | {"mu": torch.zeros(1, 1, 1, 1), "sigma": torch.ones(1, 1, 1, 1)},
    "mmpretrain": lambda w: {"meta": {}, "state_dict": {("head." if k.startswith("fc2") else "backbone.") + k: v
                                                        for k, v in w.items()}},
    "fastai": lambda w: {"model": w, "opt": {"state": [], "hypers": []}},
    "stages": lambda w: [{k: v for k, v in w.items() if k.startswith(layer)} for layer in ("conv", "fc")],
    "arrays": lambda w: {key: value.numpy() for key, value in w.items()},
}  # fmt: skip


@pytest.mark.costly
@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrapped_model_keeps_its_accuracy(folder, robench, weights, family):
    torch.save(FAMILIES[family](weights), folder / "m.pt")
    done = robench("evaluate", "m.pt", *EVALUATE[:-1], "--json", "m.json")
    assert done.code == 0, done.err
    assert "note: recognised as digits-cnn by its key names and shapes\n" in done.err
    bare = robench("evaluate", "digits-nat", *EVALUATE, "--json", "bare.json")
    assert bare.code == 0, bare.err
    found, expected = (json.loads((folder / name).read_text()) for name in ("m.json", "bare.json"))
    assert found["model"]["weights_sha256"] == expected["model"]["weights_sha256"]
    assert found["union"]["outcomes"] == expected["union"]["outcomes"]


def test_verify_and_check_read_the_chosen_weights(folder, robench, weights):
    other = {key: value.flip(0) for key, value in weights.items()}
    torch.save({"best": other, "net": weights}, folder / "m.pt")
    assert (
        robench("evaluate", "m.pt", "--weights", "best", *EVALUATE, "--run", "r.robench", "--json", "b.json").code == 0
    )
    assert robench("verify", "r.robench").code == 0
    assert robench("verify", "r.robench", "--weights", "best").code == 0
    done = robench("verify", "r.robench", "--weights", "net")
    assert done.code == 2
    assert "is not the model of r.robench" in done.err
    assert robench("check", "m.pt", "--weights", "best", "--baseline", "b.json", "--quiet").code == 0
    assert robench("figures", "r.robench", "--weights", "best", "--kind", "along", "--out", "p", "--quiet").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--weights bst", "m.pt has no weights under bst; did you mean best? it has best, last"),
        ("--arch net.py:Viewing(widht=3)", "Viewing has no argument 'widht'; did you mean width?"),
        ("--arch net.py:Viewing(width=open('x'))", "write literals"),
        ("--arch net.py:Viewin", "no factory in net.py is called 'Viewin'; did you mean Viewing?"),
    ],
)
def test_a_mistyped_option_is_one_line(folder, own, refused, weights, words, message):
    torch.save({"best": {key: value.flip(0) for key, value in weights.items()}, "last": weights}, folder / "m.pt")
    option, value = words.split(" ", 1)
    assert message in refused("evaluate", "m.pt", option, value, *EVALUATE)


# Training a network of one's own


def test_a_users_network_is_trained_and_evaluated_and_its_card_runs_no_code(folder, own, robench):
    arch = "net.py:Viewing(width=6)"
    done = robench("train", "pgd_at", "--arch", arch, *TRAIN, "--protocol", "tiny.toml", "--out", "m", "--quiet")
    assert done.code == 0, done.err
    card = read_card(folder / "m.toml")
    assert (card.architecture, card.measured["examples"]) == (arch, 12)
    again = robench("evaluate", "m.safetensors", "--protocol", "tiny.toml", "--quiet")
    assert again.code == 2
    assert f"name it: --arch '{arch}'" in again.err
    other = robench("evaluate", "m.safetensors", "--arch", "net.py:Viewing", "--protocol", "tiny.toml", "--quiet")
    assert f"the card of m names the architecture {arch}" in other.err
    named = robench("evaluate", "m.safetensors", "--arch", arch, "--protocol", "tiny.toml", "--quiet")
    assert named.code == 0
    assert named.out == done.out


def test_an_interrupted_training_gives_the_same_weights(folder, own, robench, monkeypatch):
    words = "train", "pgd_at", "--arch", "net.py:Viewing", *TRAIN, "--no-evaluation", "--quiet"
    assert robench(*words, "--out", "whole").code == 0
    save = torch.save

    def stopping(state, buffer):
        save(state, buffer)
        if state["step"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("robench.recipes.training.SAVE_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", stopping)
        assert robench(*words, "--out", "pieces").code == 130
    assert robench(*words, "--out", "pieces").code == 0
    one, two = (safetensors.torch.load_file(folder / f"{name}.safetensors") for name in ("whole", "pieces"))
    assert all(torch.equal(one[key], two[key]) for key in one | two)


@pytest.mark.costly
def test_images_of_other_shapes_are_trained_on(folder, own, robench):
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 1, 2, 32), dtype=np.float32), rng.integers(0, 3, 40)
    np.savez("radio.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = "train", "nat", "--data", "radio.npz", "--set", "steps=1", "--set", "batch=4", "--no-evaluation"
    assert robench(*words, "--arch", "net.py:Viewing", "--out", "own").code == 0
    assert robench(*words, "--out", "default").code == 0
    assert read_card(folder / "default.toml").architecture == "preactresnet18"


def test_a_network_that_calls_view_is_trained_unchanged(folder, own, robench):
    assert robench("train", "pgd_at", "--arch", "net.py:Maps", *TRAIN, "--no-evaluation", "--out", "m").code == 0


def test_a_training_starts_from_a_users_model(folder, own, robench):
    words = "train", "pgd_at", "--arch", "net.py:Viewing", *TRAIN, "--no-evaluation", "--quiet"
    assert robench(*words, "--out", "first").code == 0
    assert robench(*words, "--from", "first.safetensors", "--out", "second").code == 0
    done = robench(*words[:3], "digits-cnn", *words[4:], "--from", "first.safetensors", "--out", "third")
    assert done.code == 2
    assert "net.py:Viewing" in done.err


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("net.py:Twofold", "returns tuple in training, not one tensor"),
        ("net.py:Raising", "fails in training with ValueError: no labels"),
        ("net.py:Viewing(num_classes=7)", "labels reach 9 but the model"),
        ("net.py:Viewing(in_channels=3)", "reads 3-channel images"),
        ("net.py:nothing", "no factory in net.py is called 'nothing'"),
        ("torch.nn:Flatten", "has no weights to train"),
        ("digits-cn", "did you mean digits-cnn"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused_before_anything_is_written(own, refused, arch, message):
    assert message in refused("train", "pgd_at", "--arch", arch, *TRAIN, "--no-evaluation", "--out", "m")
