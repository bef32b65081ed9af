"""Every diagnostic has one indicator, and the documentation lists the same ones."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robench.masking import diagnostics
from robench.problem.classifier import Classifier
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.results.masking.indicators import INDICATORS

PAGE = Path(__file__).parents[3] / "docs" / "concepts" / "masking.md"
SHOWN_ALONE = {"log-probabilities", "compiled"}  # never suspicious, and without a row of their own in the page


@pytest.fixture(scope="module")
def measured():
    """The names of all measurements: of the whole model, and of each example."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 3))
    x = torch.rand(4, 1, 4, 5)
    split = Split.whole("made:up", x, net(x).argmax(dim=1).detach(), classes=3)
    model = Classifier(net, name="m", architecture="m", shape=(1, 4, 5), classes=3)
    return (
        {m.name for m in diagnostics.of_model(model, split, seed=0)},
        {m.name for m in diagnostics.of_threat(model, parse("l2:0.2"), split, seed=0)},
    )


def test_every_measurement_has_an_indicator_and_the_other_way_round(measured):
    whole, each = measured
    assert {i.measure for i in INDICATORS if i.whole} == whole | {"compiled"}
    assert {i.measure for i in INDICATORS if not i.whole} == each


def test_an_indicator_that_can_be_suspicious_says_what_it_means_and_what_to_do():
    for indicator in INDICATORS:
        assert bool(indicator.alarm) == bool(indicator.next), indicator.name


def test_the_page_on_masking_lists_every_indicator():
    rows = {line.split("|")[1].strip() for line in PAGE.read_text().splitlines() if line.startswith("| ")}
    assert {i.name for i in INDICATORS if i.measure not in SHOWN_ALONE} <= rows
