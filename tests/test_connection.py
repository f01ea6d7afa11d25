"""The connection to Ray: which cluster a sweep joins, and when it starts its own."""

import socket
import tempfile
from pathlib import Path

import pytest

from core.checks import BadInputError
from orchestrator.cluster import connection, temp_folder
from orchestrator.config import OutputConfig, SweepConfig
from orchestrator.store.store import MARKER


@pytest.fixture
def short():
    """A folder with a short path, as Ray's sockets need."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def joined(monkeypatch, short):
    """`joined(address)` connects where `ray start` left an address; returns Ray's options."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    options = {}
    monkeypatch.setattr(connection.ray, "init", lambda **given: options.update(given))
    monkeypatch.setattr(connection.ray_messages, "tell_in_lines", lambda: None)
    monkeypatch.setattr(connection.ray, "shutdown", lambda: None)

    def connect(address: str | None):
        file = short / "ray" / "ray_current_cluster"
        file.parent.mkdir()
        if address is not None:
            file.write_text(address)
        connection.connect()
        return options

    yield connect
    connection.disconnect()


def test_a_cluster_that_has_ended_is_not_waited_for(joined):
    assert joined(f"127.0.0.1:{connection.free_port()}")["address"] == "local"


@pytest.mark.parametrize("nonsense", ["", "127.0.0.1", "here:there"])
def test_an_address_that_is_none_is_not_waited_for(joined, nonsense):
    assert joined(nonsense).get("address") == ("local" if nonsense else None)


def test_a_cluster_that_answers_is_joined(joined):
    with socket.create_server(("127.0.0.1", 0)) as server:
        options = joined(f"127.0.0.1:{server.getsockname()[1]}")
    assert "address" not in options and "num_cpus" not in options


def test_ray_is_started_here_if_nobody_has(joined):
    assert "address" not in joined(None)


@pytest.fixture
def started(monkeypatch):
    """The moments of the connection: `start`, `stop`; Ray itself is not started."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(connection.ray_messages, "tell_in_lines", lambda: None)
    moments = []
    monkeypatch.setattr(connection, "join_or_start", lambda: moments.append("start"))
    monkeypatch.setattr(connection.ray, "shutdown", lambda: moments.append("stop"))
    yield moments
    connection.disconnect()


def sweep_into(folder: Path, **output) -> SweepConfig:
    return SweepConfig(output=OutputConfig(out_dir=str(folder), **output))


def test_ray_starts_once_while_a_new_sweep_is_planned(started, tmp_path):
    connection.begin_early(sweep_into(tmp_path / "new"))
    thread = connection.Connection.current
    assert thread is not None
    connection.begin_early(sweep_into(tmp_path / "another"))
    connection.connect()
    connection.connect()
    assert started == ["start"] and connection.Connection.current is thread
    # Linux ends Ray's processes together with the thread that started them.
    assert thread.is_alive()
    connection.disconnect()
    connection.disconnect()
    thread.join(60)
    assert started == ["start", "stop"] and not thread.is_alive()


def test_whoever_leaves_ray_waits_and_can_start_it_again(started):
    # An object of Ray that Python frees while Ray stops would end the process.
    connection.connect()
    connection.disconnect()
    assert started == ["start", "stop"]
    connection.connect()
    assert started == ["start", "stop", "start"]


def test_ray_does_not_start_early_where_it_may_not_be_needed(started, tmp_path, monkeypatch):
    (tmp_path / MARKER).touch()
    for config in (
        sweep_into(tmp_path),
        sweep_into(tmp_path / "new", dry_run=True),
        SweepConfig(output=OutputConfig(out_dir="s3://bucket/sweep")),
    ):
        connection.begin_early(config)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    connection.begin_early(sweep_into(tmp_path / "new"))
    connection.disconnect()
    assert started == []


def test_an_error_of_the_start_is_raised_where_ray_is_needed(started, tmp_path, monkeypatch):
    def fail():
        raise ConnectionError("no Ray")

    monkeypatch.setattr(connection, "join_or_start", fail)
    connection.begin_early(sweep_into(tmp_path / "new"))
    with pytest.raises(ConnectionError, match="no Ray"):
        connection.connect()


def test_a_folder_too_long_for_sockets_is_not_used(joined, monkeypatch, capsys):
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", "/tmp/a_rather_long_directory_of_a_batch_job/node_0001")
    options = joined(None)
    assert options["_temp_dir"] == "/tmp/ray" and options["address"] == "local"
    assert "Ray keeps its files in /tmp/ray: " in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_not_used(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("RAY_TMPDIR", str(file))
    monkeypatch.setattr(temp_folder, "BELOW", "")
    assert temp_folder.temp_folder() == "/tmp/ray"


def test_a_machine_without_a_place_for_sockets_is_told_so_in_one_line(monkeypatch):
    monkeypatch.setattr(temp_folder, "SOCKET_BYTES", 50)
    with pytest.raises(BadInputError, match="/tmp/ray is too long; .*; set RAY_TMPDIR") as told:
        temp_folder.temp_folder()
    assert "\n" not in str(told.value)


def test_rays_longest_socket_fits_where_the_check_says_so():
    """A session of Ray below a folder that is just short enough."""
    room = temp_folder.SOCKET_BYTES - len(temp_folder.BELOW)
    assert room > len("/tmp/ray-1000000") and temp_folder.trouble("/" + "t" * (room - 1)) is None
    assert "too long" in str(temp_folder.trouble("/" + "t" * room))


def test_ray_that_is_started_here_counts_cores_as_we_do(joined, monkeypatch):
    monkeypatch.setattr(connection, "num_cores", lambda: 3)
    assert joined(None)["num_cpus"] == 3
