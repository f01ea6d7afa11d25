"""The connection to Ray: which cluster a sweep joins, and when it starts its own."""

import socket
from pathlib import Path

import pytest

from orchestrator.cluster import connection


@pytest.fixture
def joined(monkeypatch, tmp_path):
    """`joined(address)` connects where `ray start` left an address; returns Ray's options."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    options = {}
    monkeypatch.setattr(connection.ray, "init", lambda **given: options.update(given))
    monkeypatch.setattr(connection.ray_messages, "tell_in_lines", lambda: None)
    monkeypatch.setattr(connection.interruption, "install", lambda: None)

    def connect(address: str | None):
        file = Path(tmp_path / "ray" / "ray_current_cluster")
        file.parent.mkdir()
        if address is not None:
            file.write_text(address)
        connection.connect()
        return options

    return connect


def test_a_cluster_that_has_ended_is_not_waited_for(joined):
    assert joined(f"127.0.0.1:{connection.free_port()}")["address"] == "local"


@pytest.mark.parametrize("nonsense", ["", "127.0.0.1", "here:there"])
def test_an_address_that_is_none_is_not_waited_for(joined, nonsense):
    assert joined(nonsense).get("address") == ("local" if nonsense else None)


def test_a_cluster_that_answers_is_joined(joined):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "address" not in joined(f"127.0.0.1:{server.getsockname()[1]}")


def test_ray_is_started_here_if_nobody_has(joined):
    assert "address" not in joined(None)
