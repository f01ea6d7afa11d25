"""The live server: what it answers, and what it refuses to."""

import http.client
import json
import runpy
import threading
from pathlib import Path

import pytest

from orchestrator.page.server import LOOPBACK, serve
from orchestrator.page.watched import Watched

_stored = runpy.run_path(str(Path(__file__).with_name("stored_sweep.py")))
StoredSweep = _stored["StoredSweep"]
CELLS = [{"sparsity": s, "perplexity": 30 + 100 * s} for s in (0.3, 0.5, 0.7)]


@pytest.fixture
def sweep(tmp_path):
    sweep = StoredSweep(tmp_path / "out", CELLS)
    sweep.finish(0)
    return sweep


@pytest.fixture
def start():
    """`start(out_dir, ...)` serves these sweeps until the test ends."""
    servers = []

    def start(*out_dirs):
        server = serve([Watched(str(out_dir)) for out_dir in out_dirs], 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection(LOOPBACK, server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def contents(server, query=""):
    answer, body = ask(server, f"/contents.json{query}")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("application/json")
    return json.loads(body)


def test_it_listens_on_loopback_only(start, sweep):
    assert start(sweep.store.root).socket.getsockname()[0] == "127.0.0.1"


def test_the_page_is_the_one_that_a_sweep_writes_and_asks_here_for_news(start, sweep):
    answer, body = ask(start(sweep.store.root), "/")
    assert answer.status == 200 and body.startswith(b"<!DOCTYPE html>")
    assert b'data-live="contents.json"' in body and b"connect-src 'self'" in body
    assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert answer.headers["Cache-Control"] == "no-store"


def test_only_progress_comes_until_a_row_is_new(start, sweep):
    server = start(sweep.store.root)
    first = contents(server)
    assert first["rows"]["count"] == 1
    same = contents(server, f"?since={first['version']}")
    assert set(same) == {"progress", "again", "version"}
    sweep.finish(1)
    new = contents(server, f"?since={first['version']}")
    assert new["changed"]["rows"]["count"] == 2 and new["version"] != first["version"]


def test_what_is_new_is_sent_alone(start, tmp_path):
    cells = [{"sparsity": 0.5, "seed": i, "method": m} for m in ("alps", "wanda") for i in range(9)]
    sweep = StoredSweep(tmp_path / "out", [*cells, {"sparsity": 0.5, "model": "other"}])
    sweep.finish(*range(18), finished_at="2026-01-05T12:00:00+00:00")
    server = start(sweep.store.root)
    first = contents(server)
    sweep.finish(18, finished_at="2026-01-05T13:00:00+00:00")
    changed = contents(server, f"?since={first['version']}")["changed"]
    assert [row[0] for row in changed["rows"]["values"]] == [18], "one row, after its place"
    assert [board["model"] for board in changed["boards"]] == ["other"]
    assert len(changed["lines"]) == 1 and len(changed["order"]["lines"]) == 3
    assert "head" in changed["parts"] and "commands" not in changed["parts"]
    assert len(json.dumps(changed)) < len(json.dumps(first)) - 2000


def test_a_large_page_asks_for_the_details_of_a_target(start, sweep, monkeypatch):
    monkeypatch.setattr("orchestrator.page.packing.MANY_ROWS", 1)
    stages = {"names": ["layers.0.fc"], "errors": [0.1], "sparsity": [0.3], "statistic": "Hessian"}
    manifest = {"kind": "prune", "parent": "root", "metrics": {"matrices": stages}}
    monkeypatch.setattr(
        Watched, "manifest", lambda self, stage: None if stage == "root" else manifest
    )
    server = start(sweep.store.root)
    first = contents(server)
    assert first["later"] and first["details"] == {}
    board = first["boards"][0]["id"]
    found = json.loads(ask(server, f"/details.json?board={board}&at=0.3")[1])
    (layers,) = found["layers"].values()
    assert layers["errors"] == [0.1] and found["names"] == [["layers.0.fc"]]
    assert json.loads(ask(server, "/details.json?board=../..&at=0.3")[1])["layers"] == {}


def test_a_page_whose_rows_went_away_gets_everything(start, sweep):
    server = start(sweep.store.root)
    sweep.finish(1)
    first = contents(server)
    sweep.store.files.delete("rows", f"{sweep.key(sweep.rows[0])}.json")
    assert contents(server, f"?since={first['version']}")["rows"]["count"] == 1
    assert contents(server, "?since=unknown")["rows"]["count"] == 1


def test_a_running_sweep_is_asked_about_more_often(start, sweep):
    server = start(sweep.store.root)
    idle = contents(server)["again"]
    sweep.beat(1)
    assert contents(server)["again"] < idle


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8790", "127.0.0.1.evil.example", "", "localhost.evil:1"]
)
def test_a_foreign_name_that_points_here_is_refused(start, sweep, host):
    answer, body = ask(start(sweep.store.root), "/contents.json", Host=host)
    assert answer.status == 403 and b"rows" not in body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:8790"])
def test_loopback_names_are_answered_on_any_port_as_behind_a_tunnel(start, sweep, host):
    assert ask(start(sweep.store.root), "/contents.json", Host=host)[0].status == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/contents.json/../x"),
        *("/sweep-store.json", "/rows/", "/notes.md", "/favicon.ico"),
    ],
)
def test_no_path_names_a_file(start, sweep, path):
    answer, body = ask(start(sweep.store.root), path)
    assert answer.status == 404 and len(body) < 100


def test_nothing_can_be_sent(start, sweep):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(start(sweep.store.root), "/contents.json", method)[0].status == 501


def test_head_has_no_body(start, sweep):
    answer, body = ask(start(sweep.store.root), "/", "HEAD")
    assert int(answer.headers["Content-Length"]) > 1_000_000 and body == b""


def test_a_port_that_is_taken_is_refused_by_name_and_left_otherwise(start, sweep):
    taken = start(sweep.store.root).server_port
    with pytest.raises(ValueError, match=f"--port {taken}: "):
        serve([Watched(sweep.store.root)], taken)


def test_several_sweeps_lie_over_each_other_with_the_settings_that_differ(start, sweep, tmp_path):
    other = StoredSweep(tmp_path / "other", CELLS, finetune={"tokens": 4096})
    other.finish(0, 1, perplexity=55.0)
    server = start(sweep.store.root, other.store.root)
    first = contents(server)
    assert first["rows"]["count"] == 3
    assert first["sweeps"]["names"] == [sweep.store.root, other.store.root]
    assert first["sweeps"]["settings"] == [["finetune.tokens", ["1024", "4096"]]]
    (told,) = first["pairs"].values()
    assert told["targets"] == [["0.3", "−8.3 %", "", "one seed: no claim"]]
    # A row of the other sweep is news for whoever looks at both.
    other.finish(2, finished_at="2026-01-06T12:00:00+00:00")
    assert contents(server, f"?since={first['version']}")["changed"]["lines"]


def test_a_browser_that_goes_before_its_answer_is_no_news(sweep, start, capsys, monkeypatch):
    answered = threading.Event()

    def gone(self, *_):
        answered.set()
        raise BrokenPipeError

    server = start(sweep.store.root)
    monkeypatch.setattr("orchestrator.page.server.LivePage.answer", gone)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(server, "/contents.json")
    assert answered.wait(60)
    assert capsys.readouterr().err == ""
