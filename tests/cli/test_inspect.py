"""`robench inspect`: what a file holds, what is recognised, and a command that can be typed."""

import pickle
import re
import shlex

import pytest
import torch
from safetensors.torch import save_file

from robench.problem import datasets
from robench.problem.architectures import ARCHITECTURES
from robench.problem.checkpoints import load


def sections(out):
    """The lines below each title."""
    found, lines = {}, []
    for line in out.splitlines():
        if line.startswith("  "):
            lines.append(line[2:])
        else:
            found[line] = lines = []
    return found


def test_a_bundled_model_is_shown_with_its_accuracy_on_clean_images(robench):
    result = robench("inspect", "digits-eat")
    assert (result.code, result.err) == (0, "")
    shown = sections(result.out)
    assert list(shown) == ["file", "model", "type"]
    assert "conv1.weight: 16x1x4x4, float32" in shown["file"]
    assert "images: 1x28x28; classes: 10; normalisation: none" in shown["model"]
    whole = datasets.load("digits:test")
    images = whole.take(range(0, len(whole), len(whole) // 200)[:200])
    with torch.no_grad():
        right = (load("digits-eat").classifier(images.x).argmax(dim=1) == images.y).double().mean()
    assert f"accuracy: {100 * right:.1f} % of 200 clean images of digits:test" in shown["model"]


def test_the_command_that_it_prints_evaluates_the_model(robench, folder):
    network = ARCHITECTURES["lenet"].build((1, 28, 28), 10)
    torch.save({"model": network.state_dict(), "epoch": 3}, "my net.pt")
    shown = sections(robench("inspect", "my net.pt", "--data", "digits", "--normalise", "mnist").out)
    assert "sets: model (10 tensors)" in shown["file"]
    assert "architecture: lenet" in shown["model"]
    assert any(line.startswith("note: ") for line in shown["model"])
    (command,) = shown["type"]
    assert command == "robench evaluate 'my net.pt' --data digits --normalise mnist"
    words = [*shlex.split(command)[1:], "--threat", "linf:0.1", "--attack", "pgd(steps=1)", "--examples", "2"]
    assert robench(*words, "--quiet").code == 0


def test_without_images_no_accuracy_is_shown_and_the_command_has_a_place_for_them(robench, folder):
    save_file(ARCHITECTURES["lenet"].build((1, 28, 28), 10).state_dict(), "net.safetensors", {"note": "mine"})
    shown = sections(robench("inspect", "net.safetensors").out)
    assert "metadata note: mine" in shown["file"]
    assert "accuracy: not measured; name images with --data" in shown["model"]
    assert shown["type"] == ["robench evaluate net.safetensors --data NAME"]


def test_weights_of_no_known_network_are_listed_with_what_to_name(robench, folder):
    torch.save({f"layer{i}.weight": torch.zeros(2, 3, dtype=torch.bfloat16) for i in range(20)}, "net.pt")
    result = robench("inspect", "net.pt")
    assert result.code == 1
    shown = sections(result.out)
    assert "layer0.weight: 2x3, bfloat16" in shown["file"]
    assert shown["file"][-1] == "and 8 more; --tensors lists them"
    (why,) = shown["not ready"]
    assert "name it with --arch" in why
    assert sum("2x3" in line for line in sections(robench("inspect", "net.pt", "--tensors").out)["file"]) == 20


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return open, ("owned", "w")


def test_code_in_a_file_does_not_run(refused, folder):
    (folder / "net.pt").write_bytes(pickle.dumps({"a": Evil()}))
    assert "would run code" in refused("inspect", "net.pt")
    assert not (folder / "owned").exists()


def test_texts_in_a_file_can_neither_move_the_cursor_nor_add_a_line(robench, folder):
    save_file(
        {"a\nb\x1b[2J": torch.zeros(1)}, "net.safetensors", {"k\x1b[1m": "v\nmodel\n  accuracy: 100 %" + "x" * 9999}
    )
    result = robench("inspect", "net.safetensors")
    assert "\x1b" not in result.out
    assert list(sections(result.out)) == ["file", "not ready"]
    assert max(map(len, result.out.splitlines())) < 2000


@pytest.mark.parametrize("words", [["nothing.pt"], ["digits-eet"], ["digits-eat", "--data", "mnits"]])
def test_a_misspelt_name_is_one_sentence(refused, words):
    assert re.search(r"nothing\.pt|digits-eat|mnist", refused("inspect", *words))
