"""What an evaluation leaves on the card of a model."""

import msgspec
import pytest

from robench.evaluation.measured_card import write_measured
from robench.problem.checkpoints.cards import Card, read_card, write_card
from robench.results.summary import MaskingEntry, ThreatMaskingEntry

from ..results.tables.test_tables import models

THREATS = ("linf:0.3", "l2:2")


@pytest.fixture
def measured(tmp_path):
    """What the card holds after an evaluation with these outcomes."""

    def on_card(*rows, clean_open=0, masked=""):
        (summary,) = models({"net": rows}, THREATS)
        verdicts = [ThreatMaskingEntry("suspect" if t.threat == masked else "none-found") for t in summary.threats]
        threats = [msgspec.structs.replace(t, masking=v) for t, v in zip(summary.threats, verdicts, strict=True)]
        joint = MaskingEntry("suspect" if masked else "none-found")
        summary = msgspec.structs.replace(summary, threats=tuple(threats), masking=joint)
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


def test_a_card_names_the_accuracies_that_masked_gradients_may_make_too_high(measured):
    assert measured("WBSS", "WBBS", masked="l2:2")["masked"] == ["l2:2", "union", "average"]
    assert measured("WBSS", "WBOS", masked="l2:2").get("masked") is None, "no accuracy is left to doubt"
    assert "masked" not in measured("WBSS", "WBBS")
