"""What several tests of run files need."""

import pytest

from robench.evidence.store import RunFile

from .records import fill


@pytest.fixture
def path(tmp_path):
    """Of a whole run file."""
    path = tmp_path / "r.robench"
    with RunFile.open(path) as run:
        fill(run)
    return path
