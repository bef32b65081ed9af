"""The catalogue file says what the classes say, and its examples are commands that work."""

import shlex
from dataclasses import fields

import click
import pytest

from robench import protocols, recipes
from robench.catalogue import FILE, Entry, catalogue
from robench.catalogue import __main__ as making
from robench.cli.main import robench
from robench.problem import datasets, threats
from robench.problem.architectures import ARCHITECTURES
from robench.recipes import RECIPES, configure
from robench.search.attacks import ATTACKS, build

ENTRIES = [(kind, entry) for kind, entries in catalogue().items() for entry in entries]


def settings_of(kind: str, name: str) -> dict[str, str]:
    (entry,) = [entry for entry in catalogue()[kind] if entry.name == name]
    return {setting.name: setting.default for setting in entry.settings}


@pytest.fixture(scope="module")
def made():
    return making.made()


@pytest.mark.costly
def test_the_catalogue_is_what_the_classes_give(made):
    assert FILE.read_bytes() == making.encoded(made), "write it again: python -m robench.catalogue"


@pytest.mark.costly
def test_that_comparison_sees_a_recipe_that_the_file_lacks(made, monkeypatch):
    monkeypatch.setattr(making, "RECIPES", {name: kind for name, kind in RECIPES.items() if name != "nat"})
    assert FILE.read_bytes() != making.encoded(made | {"recipes": making.recipes()})


@pytest.mark.parametrize(("kind", "entry"), ENTRIES, ids=lambda value: getattr(value, "name", value))
def test_every_entry_has_a_summary_of_one_line_and_an_example_that_is_understood(kind: str, entry: Entry):
    assert entry.summary.strip()
    assert "\n" not in entry.summary
    words = shlex.split(entry.example)
    above = click.Context(
        robench, **robench.context_settings
    )  # a command keeps the options for help that it sees first
    command = robench.get_command(above, words[1])
    given = command.make_context(words[1], words[2:], parent=above).params
    data = given["data"] or "digits"
    against = given.get("threats") or given.get("threat_texts", ())
    if words[1] == "train":
        configure(given["recipe"], data, {}).check(tuple(map(threats.parse, against)))
        assert RECIPES[given["recipe"]].self_training == (given["pseudo_labelled"] is not None)
        assert given["arch"] is None or given["arch"] in ARCHITECTURES
    else:
        protocol = protocols.load(given["protocol"] or protocols.default_name(data), data)
        if against:
            protocol = protocol.with_threats(against, bare=bool(given["attacks"]))
        if given["attacks"]:
            protocol = protocol.with_attacks(given["attacks"])
        assert datasets.find(data) is not None
    assert entry.name in entry.example or kind in ("threats", "attacks")


def test_the_settings_of_an_attack_are_those_that_it_takes():
    for name, kind in ATTACKS.items():
        assert list(settings_of("attacks", name)) == [field.name for field in fields(kind)], name
    assert settings_of("attacks", "pgd")["loss"] == "margin"
    assert build("pgd", {"steps": int(settings_of("attacks", "pgd")["steps"])}) == build("pgd", {})


def test_settings_that_a_recipe_rejects_are_not_listed():
    for name, kind in recipes.RECIPES.items():
        assert not set(kind.unused()) & set(settings_of("recipes", name)), name


def test_a_setting_is_explained_with_its_values():
    (pgd,) = [entry for entry in catalogue()["attacks"] if entry.name == "pgd"]
    steps, size = (next(s for s in pgd.settings if s.name == name) for name in ("steps", "step_size"))
    assert steps.values == "a whole number, at least 1"
    assert size.values == "a number, at least 0; or None"
    assert size.about.startswith("in radii")
