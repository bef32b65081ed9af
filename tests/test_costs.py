"""What attacks cost per example, by a protocol alone and as measured."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import robench
from robench import protocols
from robench.cli.costs import costs
from robench.evaluation import prepared
from robench.evidence.store import RunFile
from robench.protocols import cost

ATTACKS = ("pgd(steps=3, restarts=2)", "apgd(steps=5)", "apgd(steps=5, loss=dlr, targets=3)")
PROTOCOL = protocols.load("quick", "digits").with_threats(["linf:0.2"]).with_attacks(ATTACKS)


@pytest.fixture(params=[1, 64], ids=["one slot", "64 slots"])
def measured(request, monkeypatch, tmp_path):
    """The number of slots, the outcomes, and by example its gradients and the number of the attack that breaks it."""
    monkeypatch.setitem(prepared.SLOTS, "cpu", request.param)
    path = tmp_path / "run.robench"
    summary = robench.evaluate(
        "digits-adv-linf", threats=["linf:0.2"], attacks=ATTACKS, examples=40, run=path, precision="float32"
    )
    with RunFile.open(path) as run:
        evidence = run.evidence()
    gradients = Counter()
    for record in (*evidence.claims, *evidence.exhausted):
        gradients[record.example] += record.backwards
    specs = [planned.spec for planned in summary.threats[0].attacks]
    broken_by = {claim.example: specs.index(claim.attack) for claim, verdict in evidence.judged() if verdict.accepted}
    return request.param, summary.union.outcomes, gradients, broken_by


@pytest.mark.costly
def test_a_standing_example_costs_the_last_total_and_a_falling_one_lies_between_two(measured):
    slots, outcomes, gradients, broken_by = measured
    totals = [row.total.gradients for row in cost.rows(PROTOCOL.threats[0], 10)]
    assert totals == [8, 14, 32]
    for example, outcome in enumerate(outcomes):
        if outcome == "S":
            assert gradients[example] == totals[-1]
        elif outcome == "B":
            most = totals[broken_by[example]] if slots == 1 else totals[-1]  # other attacks may be running
            above = totals[broken_by[example] - 1] if slots == 1 and broken_by[example] else 0
            assert above < gradients[example] <= most
    assert set(outcomes) == set("WSB")
    assert set(broken_by.values()) == {0, 1, 2}


@pytest.mark.parametrize("name", protocols.names())
def test_the_last_totals_of_all_threats_add_up_to_the_cost_of_the_protocol(name):
    protocol = protocols.read(protocols.HERE / f"{name}.toml")
    tables = [cost.rows(threat, 10) for threat in protocol.threats]
    assert sum((rows[-1].total for rows in tables), cost.Cost(0, 0)) == cost.of_protocol(protocol, 10)
    assert all(row.searches >= 1 for rows in tables for row in rows)


def test_a_choice_for_a_sample_and_near_examples_is_marked_in_its_row():
    first, second, third = PROTOCOL.threats[0].attacks
    near = replace(third, near=0.5, sample=20)
    threat = type(PROTOCOL.threats[0])(PROTOCOL.threats[0].threat, (first, second, near))
    assert [row.only for row in cost.rows(threat, 10)] == ["", "", "20 examples first and near examples"]
    lines = costs(replace(PROTOCOL, threats=(threat,)), None).splitlines()
    rows = [line for line in lines if line.startswith(("pgd", "apgd"))]
    assert [line.endswith("  only 20 examples first and near examples") for line in rows] == [False, False, True]
    assert "costs the last total; less if it is neither in the sample nor near the boundary" in "\n".join(lines)


def test_the_page_shows_what_the_command_prints():
    page = (Path(__file__).parents[1] / "docs" / "reference" / "protocols.md").read_text()
    table = costs(protocols.read(protocols.HERE / "robustbench-linf.toml"), None).split("\n\n")[1]
    assert f"```\n{table}\n```" in page
