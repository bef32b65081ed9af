"""docs/reference/recipes.md has every recipe, every setting, every default, and the rates as measured."""

import ast
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from robench.recipes import RECIPES, configure
from robench.recipes.adversarial import AdversarialTraining

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "recipes.md").read_text()
MEASURED = (ROOT / "benchmarks" / "results" / "recipes-mnist-cpu.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\S+) \| .+ \|$", re.M)  # a setting, its default, what it is


def section(title):
    """What stands under a heading, up to the next."""
    (found,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", PAGE, re.M | re.S)
    return found


def defaults(text):
    return {name: _value(value) for name, value in ROW.findall(text)}


def _value(text):
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def rows(text):
    """The cells of the measured rows, by recipe."""
    cells = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "
    ]
    return {row[0]: row[1:] for row in cells if row[0] in RECIPES and len(row) == 7}


def test_every_recipe_has_its_section_and_its_line():
    assert re.findall(r"^### `(\w+)`$", PAGE, re.M) == list(RECIPES)
    assert re.findall(r"^\| `(\w+)` \| the ", section("Recipes"), re.M) == list(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_is_documented_with_its_default(name):
    shared, own = defaults(section("What they share")), defaults(section(f"`{name}`"))
    documented = shared | own
    known = {f.name: f.default for f in fields(RECIPES[name])}
    assert known == {key: documented[key] for key in known}
    assert {*own} <= {*known}, "a setting that does not exist"
    assert {*shared} == {f.name for f in fields(AdversarialTraining)}


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_section_sets_can_be_set(name):
    for words in re.findall(r"`((?:--set \S+ ?)+)`", section(f"`{name}`")):
        settings = dict(word.split("=") for word in shlex.split(words) if "=" in word)
        configure(
            name,
            "mnist",
            {key: _value(value.capitalize() if value == "true" else value) for key, value in settings.items()},
        )


def test_the_numbers_of_a_data_set_are_those_on_the_page():
    text = " ".join(section("What they share").split())
    assert "`digits` has 2,000 steps of 64 images (`nat` 1,500), `cifar10` 11,700 steps of 128" in text
    assert (configure("sat", "digits", {}).steps, configure("nat", "digits", {}).steps) == (2000, 1500)
    assert (configure("sat", "cifar10", {}).steps, configure("sat", "cifar10", {}).batch) == (11700, 128)
    assert "`svhn` 17,160 of 128, `tiny-imagenet` 23,430 of 128" in text
    for data, images, augment in (("cifar10", 50_000, True), ("svhn", 73_257, False), ("tiny-imagenet", 100_000, True)):
        for recipe in ("nat", "sat", "trades"):
            settings = configure(recipe, data, {})
            assert settings.steps == 30 * (images // settings.batch)
            assert settings.augment == augment
        assert configure("trades", data, {}).beta == 6
    assert configure("trades", "digits", {}).beta == configure("trades", "mnist", {}).beta == 1


def test_the_rates_are_those_that_were_measured():
    assert rows(section("What they cost")) == rows(MEASURED)
    assert list(rows(MEASURED)) == list(RECIPES)
