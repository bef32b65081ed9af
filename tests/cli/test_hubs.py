"""Models of hubs on the command line, from a hub on this machine and stand-ins for packages."""

import hashlib
import shutil

import pytest
import torch
from safetensors.torch import save

from robench import evaluate
from robench.evaluation.recorded import recorded_summary
from robench.problem.architectures import ARCHITECTURES
from robench.problem.checkpoints.hubs import huggingface
from robench.problem.checkpoints.zoo import zoo_folder

from ..problem.conftest import direct_connection  # noqa: F401 - a fixture
from ..problem.hubs import standins
from ..problem.hubs.conftest import cache, hub  # noqa: F401 - fixtures
from ..problem.hubs.standins import COMMIT

WORDS = ("--examples", "4", "--threat", "linf:0.1", "--attack", "pgd(steps=2)", "--quiet")
NAME = "hf:me/net"
PINNED = f"hf:me/net@{COMMIT}/model.safetensors"


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    monkeypatch.setattr(huggingface, "_FOUND", {})


def forget() -> None:
    """As a new process."""
    huggingface._FOUND.clear()


@pytest.fixture
def published(hub):  # noqa: F811
    """A network for digits with robench's own metadata, and one without."""
    torch.manual_seed(0)
    weights = save(ARCHITECTURES["lenet"].build((1, 28, 28), 10).state_dict(), {"format": "pt"})
    return hub.add("me/net", {"model.safetensors": weights})


@pytest.fixture
def rgb(monkeypatch):
    """timm with a network for grey images, which are at hand here."""
    torch.manual_seed(0)
    config = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.25,)}
    return standins.timm(monkeypatch, standins.Net(channels=1), **config)


def test_inspect_shows_where_a_model_comes_from_and_a_command_that_names_its_commit(robench, hub, published):  # noqa: F811
    result = robench("inspect", NAME, "--data", "digits")
    assert (result.code, result.err) == (0, "")
    assert f"source: {PINNED}" in result.out
    assert f"file sha256: {hashlib.sha256(published.commits[COMMIT]['model.safetensors']).hexdigest()}" in result.out
    assert f"robench evaluate {PINNED} --data digits" in result.out


def test_a_run_records_the_commit_and_the_hash_and_verify_reads_that_file_again(robench, hub, published):  # noqa: F811
    assert robench("evaluate", NAME, "--data", "digits", *WORDS, "--run", "r.robench").code == 0
    environment = recorded_summary("r.robench").environment
    assert environment["checkpoint"] == environment["source"] == PINNED
    assert environment["file sha256"] == hashlib.sha256(published.commits[COMMIT]["model.safetensors"]).hexdigest()
    published.branches["main"] = standins.LATER  # somebody pushes another model
    published.commits[standins.LATER] = {"model.safetensors": b"other"}
    forget()
    hub.requested.clear()
    result = robench("verify", "r.robench")
    assert (result.code, result.err) == (0, "")
    assert hub.requested == []


def test_a_run_file_never_starts_a_download(robench, hub, cache, published):  # noqa: F811
    assert robench("evaluate", NAME, "--data", "digits", *WORDS, "--run", "r.robench").code == 0
    shutil.rmtree(cache)
    forget()
    hub.requested.clear()
    result = robench("verify", "r.robench")
    assert result.code == 2
    assert (
        f"r.robench names the model {PINNED}, which is not on this machine; to download it, type --model" in result.err
    )
    assert hub.requested == []
    assert robench("verify", "r.robench", "--model", PINNED).code == 0


def test_a_run_file_never_runs_code_of_a_package(robench, rgb):
    assert robench("evaluate", "timm:tinynet_a", "--data", "digits", *WORDS, "--run", "r.robench").code == 0
    environment = recorded_summary("r.robench").environment
    assert environment["checkpoint"] == environment["source"] == "timm:tinynet_a.in1k"
    assert (environment["timm"], environment["weights from"]) == ("unknown", "timm/tinynet_a.in1k")
    rgb.clear()
    result = robench("verify", "r.robench")
    assert result.code == 2
    assert "names the model timm:tinynet_a.in1k, which code of timm makes; to run it, type --model" in result.err
    assert rgb == []
    assert robench("verify", "r.robench", "--model", "timm:tinynet_a").code == 0
    assert rgb != []


def test_the_gate_compares_models_of_hubs(robench, published):
    assert robench("evaluate", NAME, "--data", "digits", *WORDS, "--json", "base.json").code == 0
    forget()
    assert robench("check", NAME, "--baseline", "base.json", "--quiet").code == 0


def test_a_model_with_a_card_needs_no_data_named(robench, hub):  # noqa: F811
    files = {f"digits-nat{end}": (zoo_folder() / f"digits-nat{end}").read_bytes() for end in (".safetensors", ".toml")}
    hub.add("me/zoo", files)
    assert robench("evaluate", "hf:me/zoo", *WORDS).code == 0


def test_python_takes_the_same_names(hub, published):  # noqa: F811
    summary = evaluate(NAME, "digits", threats=["linf:0.1"], attacks=["pgd(steps=1)"], examples=4)
    assert summary.model.name == "net"
    assert summary.environment["checkpoint"] == PINNED


def test_training_starts_from_a_file_of_a_hub_and_not_from_a_package(robench, refused, published):
    words = "--data", "digits", "--arch", "lenet", "--set", "steps=2", "--no-evaluation", "--quiet", "--out"
    assert robench("train", "nat", "--from", NAME, *words, "m").code == 0
    message = refused("train", "nat", "--from", "timm:a", *words, "n")
    assert "training starts from a file, like one of hf:USER/REPO" in message


@pytest.mark.parametrize("command", [("evaluate",), ("inspect",)])
def test_a_hub_that_does_not_answer_is_one_line(refused, hub, cache, monkeypatch, command):  # noqa: F811
    hub.silent = True
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    where = hub.address.removeprefix("http://")
    assert refused(*command, NAME, "--data", "digits") == (
        f"Error: {where} does not answer, and me/net is not in the cache; try again later, or name a file"
    )
    assert not cache.exists()


def test_a_missing_package_is_one_line(refused):
    assert refused("evaluate", "torchvision:resnet18", "--data", "digits") == (
        "Error: torchvision:resnet18 needs torchvision, which is not installed; type pip install 'robench[torchvision]'"
    )
