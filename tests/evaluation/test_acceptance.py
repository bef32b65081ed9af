"""How many standing examples of a submitted model may be broken, as docs/how-to/submissions.md states."""

import re
from pathlib import Path

import pytest

from robench.cli.options import SEARCHED
from robench.errors import UserError
from robench.evaluation.acceptance import HONEST, UNLIKELY, acceptable, check_new
from robench.evaluation.model_source import CheckpointSource
from robench.evaluation.prepared import prepare
from robench.evaluation.request import EvalRequest
from robench.results.masking.indicators import tail

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "submissions.md").read_text()


@pytest.mark.parametrize("n", [0, 1, 2, 10, 20, 50, 200])
def test_an_honest_run_is_refused_by_accident_less_often_than_once_in_a_hundred(n):
    allowed = acceptable(n)
    assert tail(allowed + 1, n, HONEST) < UNLIKELY
    assert allowed == 0 or tail(allowed, n, HONEST) >= UNLIKELY


def test_the_page_states_these_numbers():
    text = " ".join(PAGE.split())
    assert f"lose at most {100 * HONEST:g} % of its standing examples" in text
    assert f"more than {acceptable(20)} of 20, more than {acceptable(50)} of 50" in text
    assert f"`--search N` ({SEARCHED} unless" in text
    shares = re.findall(
        r"if (\d+) % of the standing examples can be broken, a search of 20 finds more than 2", text, re.I
    )
    found = re.findall(r"with a probability of (\d+) %", text)
    assert found == [f"{100 * tail(acceptable(20) + 1, 20, int(share) / 100):.0f}" for share in shares]
    assert len(found) == 2


def test_a_run_of_a_new_model_must_name_a_threat():
    def plan(protocol):
        return prepare(EvalRequest(data="digits", protocol=protocol), CheckpointSource("digits-nat")).plan

    check_new(plan("quick"), [])
    with pytest.raises(UserError, match="it names no threat, so it says nothing about robustness"):
        check_new(plan("clean"), [])
