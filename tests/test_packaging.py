"""What is shipped: versions that fit together, files that belong in it, nothing that belongs elsewhere."""

import hashlib
import re
import shlex
import sys
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

import robench
from robench.cli import train
from robench.problem import datasets
from robench.problem.checkpoints.cards import read_card
from robench.problem.split import Split

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
CARDS = sorted((ROOT / "model_zoo").glob("*.toml"))
WITH_WEIGHTS = [path for path in CARDS if path.with_suffix(".safetensors").exists()]


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def applies(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python, "extra": ""})


def pins(python: str) -> dict[str, str]:
    """The version of each package under one Python; fails when there are two."""
    found: dict[str, str] = {}
    for pin in constraints():
        if applies(pin, python):
            assert pin.name not in found, f"{pin.name} has two versions under Python {python}"
            (only,) = pin.specifier
            found[pin.name] = only.version
    return found


def wanted() -> list[Requirement]:
    """Everything pyproject.toml asks for, with all extras."""
    project = PROJECT["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return [r for r in map(Requirement, texts) if r.name != "robench"]


def test_every_constraint_is_one_exact_version():
    for pin in constraints():
        assert re.fullmatch(r"==[\w.!]+", str(pin.specifier)), pin
        assert pin.url is None, pin


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_an_exact_version_that_fits_it(python):
    versions = pins(python)
    for requirement in wanted():
        if applies(requirement, python):
            assert requirement.specifier.contains(versions[requirement.name]), requirement


def test_the_pythons_of_the_project_are_those_the_constraints_are_for():
    assert PROJECT["project"]["requires-python"] == f">={PYTHONS[0]},<3.14"


def test_the_version_is_in_one_place_and_in_the_changelog():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "robench/__init__.py"
    assert re.search(rf"^## .*\b{re.escape(robench.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_command_is_a_function_that_exists():
    module, _, name = PROJECT["project"]["scripts"]["robench"].partition(":")
    assert callable(getattr(import_module(module), name))


def test_the_wheel_carries_models_protocols_and_types():
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["robench"]
    assert wheel["force-include"] == {"model_zoo": "robench/model_zoo"}
    assert (ROOT / "robench" / "py.typed").is_file()
    assert list((ROOT / "robench" / "protocols").glob("*.toml"))


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_a_card_says_how_its_model_was_made(card):
    said = read_card(card)
    assert said.name == card.stem
    assert said.weights == f"{card.stem}.safetensors"
    assert said.recipe
    assert said.command.startswith("robench train ")


class OrderedError(Exception):
    """Instead of a training."""


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_the_command_on_a_card_orders_the_very_model_that_the_card_describes(card, tmp_path, monkeypatch):
    said, orders = read_card(card), []

    def make(order, *_):
        orders.append(order)
        raise OrderedError

    split = Split.whole("images", torch.zeros(4000, 1, 1, 1), torch.zeros(4000, dtype=torch.long), said.classes)
    monkeypatch.setattr(datasets, "load", lambda name, part: split)
    monkeypatch.setattr(train, "make", make)
    monkeypatch.setattr(train.signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(said.command)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(OrderedError):
        train.command.main(words[2:], standalone_mode=False)
    (order,) = orders
    assert words[:2] == ["robench", "train"]
    assert (order.recipe.name, order.data, order.architecture) == (said.recipe, said.data, said.architecture)
    assert (order.seed, order.out.name, order.command) == (said.seed, said.name, said.command)
    told = dict(said.settings)
    assert list(map(str, order.threats)) == told.pop("threats")
    assert order.validation == told.pop("validation", 0)
    assert order.precision == told.pop("precision", "float32")
    assert order.compiled == told.pop("compiled", False)
    assert order.start == told.pop("start", "").partition(" ")[0]
    told.pop("data_sha256")
    assert replace(order.recipe, **told) == order.recipe
    assert {f.name for f in fields(order.recipe) if f.repr} - {*told} == {*order.recipe.unused()}


@pytest.mark.parametrize("card", WITH_WEIGHTS, ids=lambda path: path.stem)
def test_a_bundled_model_is_small_and_is_the_one_its_card_describes(card):
    weights = card.with_suffix(".safetensors")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == read_card(card).sha256
    assert weights.stat().st_size < (300_000 if read_card(card).data == "digits" else 7_000_000)


def test_every_weights_file_has_a_card_and_small_models_come_with_their_weights():
    weights = {path.stem for path in (ROOT / "model_zoo").glob("*.safetensors")}
    assert weights == {path.stem for path in WITH_WEIGHTS}
    assert {path.stem for path in CARDS if path.stem.startswith("digits-")} <= weights


def test_the_licence_is_apache_2_in_full():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_what_installs_names_no_index_and_no_place_of_one_machine():
    for name in ("constraints.txt", "pyproject.toml", ".ci/run", "README.md", "CONTRIBUTING.md"):
        found = re.findall(
            r"https?://\S+|--(?:extra-)?index-url|--find-links|(?:^|[\s'\"])/(?!dev/)\w+/\S+", (ROOT / name).read_text()
        )
        assert found == [], name
