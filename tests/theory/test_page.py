"""The committed page is what its command writes."""

import subprocess
import sys
from pathlib import Path

import pytest

from robench.theory.page import page, sections

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.mark.costly
def test_the_committed_page_and_figures_are_those_of_the_code():
    parts = sections()
    assert page(parts) == (REPORTS / "theory.md").read_text(encoding="utf-8")
    names = {f"theory-{picture.name}.svg" for part in parts for picture in part.pictures}
    assert names == {file.name for file in REPORTS.glob("theory-*.svg")}


@pytest.mark.costly
def test_a_missing_folder_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "robench.theory", str(tmp_path / "none")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "make it first" in done.stderr
