"""What an evaluation leaves on the card of a model."""

import msgspec
import pytest

from robench.evaluation.measured_card import write_measured
from robench.problem.checkpoints.cards import Card, read_card, write_card

from ..results.tables.test_tables import models

THREATS = ("linf:0.3", "l2:2")


@pytest.fixture
def measured(tmp_path):
    """What the card holds after an evaluation with these outcomes."""

    def on_card(*rows, clean_open=0):
        (summary,) = models({"net": rows}, THREATS)
        clean = msgspec.structs.replace(summary.clean, open=clean_open)
        path = tmp_path / "net.toml"
        about = {"data": "toy", "architecture": "toy-net", "shape": (1, 2, 2), "classes": 2}
        write_card(path, Card(name="net", weights="net.safetensors", sha256="ab" * 32, **about))
        write_measured(path, msgspec.structs.replace(summary, clean=clean), "net.robench")
        return read_card(path).measured

    return on_card


def test_a_card_has_every_accuracy_of_a_finished_run(measured):
    found = measured("WBSS", "WBBS")
    assert {name: found[name] for name in ("clean", *THREATS, "union", "average")} == {
        "clean": 0.75, "linf:0.3": 0.5, "l2:2": 0.25, "union": 0.25, "average": 0.375,
    }  # fmt: skip


def test_a_card_has_no_bound_but_what_is_settled(measured):
    found = measured("WBSS", "WBOS")
    assert (found["clean"], found["linf:0.3"]) == (0.75, 0.5)
    assert not {"l2:2", "union", "average"} & {*found}


def test_a_union_is_settled_where_each_open_example_is_broken_under_another_threat(measured):
    found = measured("WBSS", "WOBS")
    assert found["union"] == 0.25
    assert not {"l2:2", "average"} & {*found}


def test_a_clean_accuracy_with_open_examples_is_no_accuracy(measured):
    assert "clean" not in measured("WOOO", "WOOO", clean_open=1)
