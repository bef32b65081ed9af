"""A chain whose strides and normalisation were inferred: resumed, verified and reported as the same model."""

import json

import pytest
import torch

from ..problem.test_chains import built, trained


@pytest.fixture
def chain(folder):
    network = built("chain:conv5/3p1,relu,flatten,fc,relu,fc", (8, 1, 5, 5), (32, 648), (10, 32))
    torch.save(trained(network, 4, "0.5/0.5").state_dict(), folder / "net.pt")
    return "net.pt"


@pytest.mark.costly
def test_what_was_inferred_is_recorded_with_the_run(robench, folder, chain):
    words = ("evaluate", chain, "--data", "digits", "--protocol", "tiny.toml", "--run", "r.robench", "--json", "s.json")
    first = robench(*words)
    assert first.code == 0, first.err
    assert "normalisation 0.5/0.5 inferred" in first.err
    environment = json.loads((folder / "s.json").read_text())["environment"]
    assert environment["arch"] == "chain:conv5/3p1,relu,flatten,fc,relu,fc"
    assert environment["normalise"] == "0.5/0.5"
    quiet = robench(*words, "--quiet")
    for shown in (first.out, quiet.out, robench("report", "r.robench").out, robench("verify", "r.robench").out):
        assert "Note: the layers of the network were inferred from clean images, and ReLU is assumed" in shown
    again = robench(*words, "--examples", "16")  # resumes the run with more examples
    assert again.code == 0, again.err
    verified = robench("verify", "r.robench")
    assert verified.code == 0, verified.err
    typed = robench(*words, "--arch", environment["arch"], "--normalise", "0.5/0.5", "--examples", "16")
    assert typed.code == 0, typed.err
    assert "inferred" not in typed.out
