"""The plans of papers name what exists, and hold numbers that agree with each other."""

from pathlib import Path
from statistics import fmean

import click
import pytest

from robench import protocols
from robench.cli.main import robench
from robench.errors import UserError
from robench.problem import threats
from robench.problem.datasets import DATASETS
from robench.recipes import RECIPES
from robench.reproduction import papers, read
from robench.reproduction.plans import SIZES, steps

TABLES = [(paper, table) for paper in papers() for table in read(paper).table]
ODD = {  # the paper's average is not the mean of what it prints for single threats
    *(("1-svhn", "avg"), ("3-svhn", "sat")),
    *(("1-tiny-imagenet", "adv-l2"), ("1-tiny-imagenet", "trades"), ("1-tiny-imagenet", "msd")),
}
SIZED = [(paper, table, size) for paper, table in TABLES for size in table.sizes]


@pytest.mark.parametrize(("paper", "table"), TABLES, ids=lambda value: getattr(value, "name", value))
def test_published_numbers_are_shares_of_known_columns_and_agree(paper, table):
    for model in table.models:
        assert model.recipe in RECIPES
        assert set(model.published) <= {"clean", "union", "average", *table.threats}
        assert all(0 <= number <= 1 for number in model.published.values())
        united = table.united or table.threats
        single = [model.published[t] for t in united if t in model.published]
        if "union" in model.published and single:
            assert model.published["union"] <= min(single)
        if len(single) == len(united) and "average" in model.published and (table.name, model.name) not in ODD:
            assert fmean(single) == pytest.approx(model.published["average"], abs=0.0015)


@pytest.mark.parametrize(("paper", "table", "size"), SIZED, ids=lambda value: getattr(value, "name", value))
def test_every_command_of_a_plan_is_one_that_robench_reads(paper, table, size):
    sized = table.sized(size)
    assert size in SIZES
    assert sized.data in DATASETS
    protocols.load(sized.protocol, sized.data)
    kinds = {threats.parse(text).name for text in (*sized.threats, *sized.training_threats)}
    for model in table.models:
        assert set(model.train_on) <= kinds
    for step in steps(table, sized, Path("out"), frozenset(), "cpu"):
        for words in (step.train, step.evaluate):
            group = click.Context(
                robench, **robench.context_settings
            )  # a command keeps the options for help that it sees
            command = robench.get_command(group, words[0])
            assert command is not None
            command.make_context(words[0], words[1:], parent=group)


def test_a_bundled_model_is_not_trained():
    table = next(t for t in read("tramer2019").table if t.name == "1-left")
    first, *others = steps(table, table.sized("small"), Path("out"), frozenset({"mnist-small-nat"}), "cpu")
    assert first.train == []
    assert first.file == "mnist-small-nat"
    assert all(step.train for step in others)


def test_the_name_of_a_table_chooses_its_halves():
    paper = read("tramer2019")
    assert [t.name for t in paper.chosen(("1",))] == ["1-left", "1-right"]
    assert [t.name for t in paper.chosen(("1-right", "1"))] == ["1-left", "1-right"]
    assert paper.chosen(()) == paper.table
    assert [t.name for t in read("madaan2021").chosen(("1",))] == ["1"]  # and not 1-svhn


def test_a_table_that_cannot_be_made_here_states_why():
    (table,) = read("madaan2021").chosen(("2",))
    with pytest.raises(UserError, match="it cannot be made here: The 500,000 images"):
        table.sized("small")


def test_a_recipe_has_settings_of_its_own_in_a_plan():
    (table,) = read("madaan2021").chosen(("1",))
    trainings = {
        step.model.name: step.train for step in steps(table, table.sized("small"), Path("out"), frozenset(), "cpu")
    }
    assert "inner_steps=8" in trainings["msd"]
    assert "inner_steps=4" in trainings["max"]
    assert not any("inner_steps" in word for word in trainings["nat"])


def test_a_model_has_settings_of_its_own_in_a_plan():
    (table,) = read("madaan2021").chosen(("beta",))
    made = [step.train for step in steps(table, table.sized("small"), Path("out"), frozenset(), "cpu")]
    betas = [[word for word in train if word.startswith("beta=")] for train in made]
    assert betas == [["beta=0"], ["beta=4"], [], ["beta=24"]]


def test_unknown_names_are_refused_with_those_that_there_are():
    with pytest.raises(UserError, match="did you mean tramer2019"):
        read("tramer2020")
    with pytest.raises(UserError, match="no table is called '7'"):
        read("tramer2019").chosen(("7",))
