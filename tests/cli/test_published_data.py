"""Published data sets on the command line, from made-up files in the folder ROBENCH_DATA."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from robench.problem import checkpoints, datasets
from robench.problem.architectures import ARCHITECTURES
from robench.problem.datasets.cifar10_c import CorruptedCifar10

from ..problem.originals import md5, write
from ..problem.test_cifar10_c import ARCHIVE, FILES, IMAGES, LABELS


@pytest.fixture
def corrupted(folder, monkeypatch):
    """CIFAR-10-C with four images under two corruptions, in ROBENCH_DATA."""
    data = folder / "data"
    write(data / "CIFAR-10-C", **FILES)
    monkeypatch.setenv("ROBENCH_DATA", str(data))
    checksums = {name.removesuffix(".npy"): md5(content) for name, content in FILES.items()}
    toy = CorruptedCifar10(checksums, md5(ARCHIVE), ())
    monkeypatch.setattr(datasets, "CIFAR10_C", toy)
    return data


@pytest.fixture
def network(folder):
    """A network for images of CIFAR-10 that always answers 8, in net.safetensors."""
    torch.manual_seed(3)
    module: nn.Module = ARCHITECTURES["strided-cnn"].build((3, 32, 32), 10).eval()
    list(module.parameters())[-1].data[8] += 1000  # the bias of the last layer
    checkpoints.save(
        module, folder / "net.safetensors", architecture="strided-cnn", normalisation="none", shape=(3, 32, 32),
        classes=10, dtype=torch.float32,
    )  # fmt: skip
    return module


def correct_by_hand(network, name, severity) -> int:
    rows = slice(4 * (severity - 1), 4 * severity)
    x = torch.from_numpy((IMAGES[name][rows] / 255).astype(np.float32).transpose(0, 3, 1, 2).copy())
    return int((network(x).argmax(dim=1).numpy() == LABELS[rows]).sum())


@torch.no_grad()
def test_clean_accuracy_on_a_corruption_needs_no_attack_and_is_verified(robench, corrupted, network, folder):
    result = robench(
        "evaluate", "net.safetensors", "--data", "cifar10-c/fog@2", "--protocol", "clean", "--json", "s.json"
    )
    assert result.code == 0
    assert "4 examples of cifar10-c/fog@2:test; protocol clean; seed 0." in result.out
    assert "No threat was planned: accuracy before any attack." in result.out
    assert "still open" not in result.err
    summary = json.loads((folder / "s.json").read_text())
    assert summary["clean"]["correct"] == correct_by_hand(network, "fog", 2)
    assert summary["clean"]["correct"] == 2  # two of four labels are 8
    assert summary["union"]["accuracy"] == summary["clean"]["accuracy"]
    (run,) = (folder / "runs").iterdir()
    assert run.name.startswith("net-cifar10-c-fog@2-")
    assert "4 clean answers and 0 adversarial images judged again: all hold" in robench("verify", run).out


def test_a_corruption_is_attacked_at_the_radii_of_cifar10(robench, corrupted, network):
    result = robench(
        "evaluate", "net.safetensors", "--data", "cifar10-c/gaussian_noise@5", "--examples", "2", "--attack",
        "pgd(steps=1)", "--threat", "linf:8/255",
    )  # fmt: skip
    assert result.code == 0
    assert "2 examples of cifar10-c/gaussian_noise@5:test" in result.out


def test_other_images_than_those_of_a_run_are_refused(robench, corrupted, network, folder):
    robench("evaluate", "net.safetensors", "--data", "cifar10-c/fog@2", "--protocol", "clean", "--run", "a.robench")
    shutil.copy(folder / "a.robench", folder / "b.robench")
    result = robench("verify", "b.robench", "--data", "cifar10-c/fog@3")
    assert result.code != 0
    assert "cifar10-c/fog@3:test holds other images" in result.err


def test_a_protocol_without_threats_takes_no_attack(refused):
    message = refused("evaluate", "digits-nat", "--protocol", "clean", "--attack", "pgd")
    assert "the protocol clean has no threats; name one with --threat, or another protocol" in message


def test_a_data_set_without_test_images_is_trained_on_without_an_evaluation(refused):
    message = refused("train", "nat", "--data", "rst-500k")
    assert "rst-500k has no test images to evaluate the model on; give --no-evaluation" in message
    assert "there are train" not in message


def test_the_card_of_a_model_that_was_not_attacked_names_no_union(robench, folder):
    result = robench(
        "train", "nat", "--data", "digits", "--set", "steps=2", "--out", "m", "--protocol", "clean", "--quiet",
    )  # fmt: skip
    assert result.code == 0
    card = (folder / "m.toml").read_text()
    assert "clean = 0." in card
    assert "union" not in card
