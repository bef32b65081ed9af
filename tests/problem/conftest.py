"""Addresses on this machine: one that serves, one at which nothing listens."""

import socket
from collections.abc import Iterator

import pytest

from .serving import Server


@pytest.fixture
def direct_connection(monkeypatch) -> None:
    """Past every proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(direct_connection) -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def nowhere(direct_connection) -> str:
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/"
