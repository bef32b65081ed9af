"""A hub on this machine, and a cache folder of the test's own."""

from collections.abc import Iterator

import pytest

from .standins import Hub


@pytest.fixture
def hub(direct_connection, cache, monkeypatch) -> Iterator[Hub]:
    """A hub that HF_ENDPOINT names."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    with Hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder of robench; that of Hugging Face's own tools is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "cache" / "robench"
