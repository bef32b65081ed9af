"""How notebooks show a summary."""

import subprocess
import sys

import robench
from robench.results.notebook import view
from robench.results.summarising import summarise
from robench.results.tables import main_table, render

from .made import EVIDENCE, PLAN


def test_a_notebook_shows_the_main_table_of_a_summary():
    summary = summarise(PLAN, EVIDENCE, "0")
    assert summary._repr_html_() == view(summary)
    assert "<table>" in view(summary)
    assert main_table([summary], intervals=True).caption in view(summary)


def test_a_printed_summary_is_the_table_that_evaluate_prints():
    summary = summarise(PLAN, EVIDENCE, "0")
    assert f"{summary}\n" == render([summary], intervals=True)
    assert main_table([summary], intervals=True).markdown().rstrip() == str(summary)


def test_the_public_summary_comes_with_its_view():
    assert robench.Summary is type(summarise(PLAN, EVIDENCE, "0"))
    code = "import robench; robench.Summary; from robench.results import summary; assert summary._notebook_view"
    subprocess.run([sys.executable, "-c", code], check=True)
