"""The tables of docs/concepts/statistics.md are what `benchmarks/coverage.py` computes."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.costly
def test_the_exact_tables_of_the_page_are_what_the_benchmark_adds_up():
    page = (ROOT / "docs" / "concepts" / "statistics.md").read_text()
    coverage = runpy.run_path(str(ROOT / "benchmarks" / "coverage.py"))
    for rows in (coverage["intervals"](), coverage["powers"]()):
        assert coverage["table"](rows) in page


def test_the_simulated_tables_have_the_form_of_the_benchmark_and_keep_what_is_promised():
    page = (ROOT / "docs" / "concepts" / "statistics.md").read_text()
    coverage = runpy.run_path(str(ROOT / "benchmarks" / "coverage.py"))
    few = coverage["false_alarms"](20)
    lines = page.splitlines()
    start = lines.index(next(line for line in lines if "true drop 0 points" in line))
    rows = [[float(cell.strip(" %")) for cell in line.strip("|").split("|")] for line in lines[start + 2 : start + 4]]
    assert [row[0] for row in rows] == [row["examples"] for row in few]
    assert all(0 <= alarms <= 1 for row in rows for alarms in row[1:]), "at most 1 % of false alarms"
