"""No test of this folder asks the network for anything."""

import socket

import pytest


@pytest.fixture(autouse=True)
def fetched(monkeypatch):
    """What a test asked the network for."""
    asked = []

    def refused(*address, **_):
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    yield asked
    assert not asked
