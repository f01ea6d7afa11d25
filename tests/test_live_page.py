"""The live page in a real browser: rows arrive, progress is told, sweeps lie side by side."""

import runpy
import threading
import time
from pathlib import Path

import pytest

from orchestrator.page.server import serve
from orchestrator.page.watched import Watched

_here = Path(__file__)
StoredSweep = runpy.run_path(str(_here.with_name("stored_sweep.py")))["StoredSweep"]
CELLS = [{"sparsity": s, "perplexity": 30 + 100 * s} for s in (0.3, 0.5, 0.7, 0.8)]
EVIL = "<script>window.hacked = 1</script>\"'<img src=x onerror='window.hacked = 2'>"


@pytest.fixture
def look(browser):
    """`look(sweep, ...)` opens the live page of some sweeps, asked for news all the time."""
    servers = []
    browser.errors()  # Those of earlier pages are not of this one.

    def look(*sweeps):
        server = serve([Watched(sweep.store.root) for sweep in sweeps], 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.devtools("Emulation.setDeviceMetricsOverride", **size)
        browser.call("/url", {"url": server.url})
        return server

    yield look
    browser.call("/url", {"url": "about:blank"})
    for server in servers:
        server.shutdown()
        server.server_close()


def text(browser, name):
    return browser.run("return document.getElementById(arguments[0]).textContent", name)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def test_rows_arrive_by_themselves_and_keep_what_the_reader_chose(browser, look, tmp_path):
    sweep = StoredSweep(tmp_path / "out", CELLS)
    sweep.finish(0)
    sweep.beat(1)
    look(sweep)
    assert len(browser.table()) == 1
    note = text(browser, "note")
    assert note.startswith("1 of 4 cells done, 1 running, 2 waiting, about 3m")
    assert "0.5 seed 0running" in text(browser, "cells")
    browser.run("document.querySelector('[data-set=\"y=perplexity\"]').click()")
    browser.run("return Plotly.relayout('plot', {'yaxis.range': [1.5, 2.5]}).then(() => 0)")
    loaded = browser.run("return performance.timeOrigin")
    sweep.finish(1)
    sweep.beat(2)
    wait_for(lambda: len(browser.table()) == 2)
    (curve,) = browser.curves()
    assert curve["x"] == [0.3, 0.5] and curve["y"] == [60.0, 80.0]
    assert browser.run("return byId('plot')._fullLayout.yaxis.range") == [1.5, 2.5]
    assert browser.run("return performance.timeOrigin") == loaded, "the page was loaded anew"
    assert "a trial2 of 4, at wanda oneshot 0.7" in text(browser, "trials")
    assert "perplexity 80.00" in text(browser, "events")
    assert "0.5" in browser.run("return document.querySelector('.board.chosen thead').innerText")
    assert text(browser, "note").startswith("2 of 4 cells done")
    sweep.finish(2, status="failed", error="boom", perplexity=None)
    wait_for(lambda: "1 failed" in text(browser, "note"))
    assert browser.errors() == []


def test_a_large_page_gets_layers_when_they_are_looked_at(browser, look, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.page.packing.MANY_ROWS", 1)
    stages = {"names": ["layers.0.fc"], "errors": [0.1], "sparsity": [0.3], "statistic": "Hessian"}
    manifest = {"kind": "prune", "parent": "root", "metrics": {"matrices": stages}}
    known = {"root": None}
    monkeypatch.setattr(Watched, "manifest", lambda self, stage: known.get(stage, manifest))
    sweep = StoredSweep(tmp_path / "out", CELLS)
    sweep.finish(0)
    look(sweep)
    browser.run("set({view: 'layers'})")
    wait_for(lambda: [trace["kind"] for trace in browser.shown()] == ["layer"])
    assert "layers.0.fc: 0.1" in browser.shown()[0]["hover"][0]
    assert browser.run("return live.asked.size") == 1
    sweep.finish(1)
    wait_for(lambda: len(browser.table()) == 2)
    browser.run("set({at: '0.3'}); set({at: '0.5'})")
    wait_for(lambda: len(browser.run("return Object.keys(page.data.details.stages)")) == 2)
    assert browser.run("return page.data.details.names.length") == 1, "a list is held once"
    assert browser.errors() == []


def test_progress_moves_without_drawing_anything_anew(browser, look, tmp_path):
    sweep = StoredSweep(tmp_path / "out", CELLS)
    sweep.finish(0)
    sweep.beat(1)
    look(sweep)
    browser.run("document.querySelector('#rows tbody tr').focus()")
    sweep.beat(2)
    wait_for(lambda: "0.7 seed 0running" in text(browser, "cells"))
    assert browser.run("return document.activeElement.tagName") == "TR"


def test_a_server_that_goes_away_is_said(browser, look, tmp_path):
    sweep = StoredSweep(tmp_path / "out", CELLS)
    sweep.finish(0)
    sweep.beat(1)
    server = look(sweep)
    server.shutdown()
    server.server_close()
    wait_for(lambda: "does not answer" in text(browser, "note"))
    assert len(browser.table()) == 1
    assert all("REFUSED" in error for error in browser.errors()), "and nothing else went wrong"


def test_sweeps_lie_over_each_other_and_are_chosen_between(browser, look, tmp_path):
    one = StoredSweep(tmp_path / "one", CELLS)
    two = StoredSweep(tmp_path / "two", CELLS, finetune={"tokens": 4096})
    one.finish(0, 1)
    two.finish(0, 1, 2, perplexity=66.0)
    look(one, two)
    differing = browser.run("return document.getElementById('differing').innerText")
    assert "finetune.tokens\t1024\t4096" in differing
    assert len(browser.table()) == 5
    browser.choose("color", "sweep")
    assert {trace["name"] for trace in browser.curves()} == {one.store.root, two.store.root}
    ids = browser.run("return page.data.lines.map(line => line.id)")
    browser.run("set({pick: arguments[0]})", ids)
    assert "+10 %" in browser.run("return byId('compared').innerText")
    browser.choose("color", "method")
    browser.choose("sweep", two.store.root)
    assert [trace["x"] for trace in browser.curves()] == [[0.3, 0.5, 0.7]]
    assert f"{two.store.root}: 3 of 4" in text(browser, "note")
    assert browser.errors() == []


def test_one_sweep_shows_no_comparison(browser, look, tmp_path):
    sweep = StoredSweep(tmp_path / "out", CELLS)
    look(sweep)
    hidden = "return [byId('sweeps').hidden, byId('sweep').closest('label').hidden]"
    sweep.finish(0)
    wait_for(lambda: len(browser.table()) == 1)
    assert browser.run(hidden) == [True] * 2


def test_hostile_names_errors_and_settings_stay_text(browser, look, tmp_path):
    known = {"model": EVIL, "method": EVIL, "eval_text": EVIL, "perplexity": 40.0}
    one = StoredSweep(tmp_path / "one", [known, {**known, "sparsity": 0.7}])
    two = StoredSweep(tmp_path / "two", [known], finetune={"text": EVIL})
    one.finish(0)
    one.finish(1, status="failed", error=EVIL, perplexity=None)
    two.finish(0)
    look(one, two)
    browser.run("document.querySelector('#progress details').open = true")
    assert EVIL in text(browser, "cells") and EVIL in text(browser, "boards")
    assert EVIL in text(browser, "differing")
    assert browser.run("return window.hacked ?? null") is None
    assert browser.run("return document.querySelectorAll('main img, header img').length") == 0
