"""The page as text, and in a real browser where chromium and chromedriver are installed."""

import json
import math
import re
import runpy
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs_version

from orchestrator.page.contents import page_contents
from orchestrator.page.document import PLOTLY, asset, hash_of, page_html, write_html
from orchestrator.results.schema import SCHEMA

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, sweep_rows = _synthetic["make_row"], _synthetic["sweep_rows"]
EVIL = "<script>window.hacked = 1</script>\"'</td><img src=x onerror='window.hacked = 2'>&lt;"


def data_of(text: str) -> dict:
    (island,) = text.split('id="data">')[1:]
    return json.loads(island.split("</script>")[0], parse_constant=pytest.fail)


def test_rows_reach_the_page_whole_and_as_valid_json():
    rows = [make_row(seed=i, perplexity=v) for i, v in enumerate((1.5, math.nan, math.inf))]
    data = data_of(page_html(page_contents(rows), plotly_js=""))
    assert data["columns"] == SCHEMA.names
    column = 1 + SCHEMA.names.index("perplexity")
    assert [row[column] for row in data["rows"]] == [1.5, "nan", "inf"]
    assert len({row[0] for row in data["rows"]}) == 3


def test_task_results_are_columns_of_the_page():
    rows = [make_row() | {"task:tiny:acc": 0.4}, make_row()]
    data = data_of(page_html(page_contents(rows), plotly_js=""))
    assert data["columns"] == [*SCHEMA.names, "task:tiny:acc"]
    assert sorted(row[-1] or 0 for row in data["rows"]) == [0, 0.4]


def test_nothing_from_rows_or_provenance_is_markup():
    known = {"model": EVIL, "method": EVIL, "regime": EVIL, "error": EVIL, "eval_text": EVIL}
    text = page_html(page_contents([make_row(**known)], provenance={EVIL: EVIL}), plotly_js="")
    assert "<img" not in text and "<script>window" not in text
    assert data_of(text)["rows"][0][1 + SCHEMA.names.index("error")] == EVIL


def test_settings_panel_lists_every_value_and_the_command():
    rows = [make_row(), make_row(torch_version="2.11.0")]
    told = dict(page_contents(rows, provenance={"command": "python x.py --a b"})["settings"])
    assert told["command"] == ["python x.py --a b"]
    assert told["torch"] == ["2.11.0", "2.13.0"]


def test_page_forbids_itself_the_network_unless_it_is_live():
    still, live = (page_html(page_contents([]), address, "") for address in (None, "rows.json"))
    assert "default-src 'none'; script-src" in still and "connect-src" not in still
    assert "default-src 'none'; connect-src 'self'; script-src" in live
    assert 'data-live="rows.json"' in live


def test_page_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "curves.html"
    path.write_text("old")
    write_html([], path)
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.html"]


def test_page_is_one_file_with_plotly_inside(tmp_path):
    write_html([make_row()], tmp_path / "curves.html")
    text = (tmp_path / "curves.html").read_text()
    assert "* plotly.js (basic - minified) v" in text
    assert not any(f"<{tag} src" in text for tag in ("script", "img")) and "<link" not in text


def test_plotly_js_has_its_licence_and_the_version_of_the_python_package():
    version = re.search(r"plotly\.js \(basic - minified\) v(\d+)", asset(PLOTLY))
    assert version is not None and "MIT License" in asset("plotly-basic.LICENSE")
    # The major version decides what a trace and a layout may say.
    assert version[1] == get_plotlyjs_version().partition(".")[0]


def test_only_the_pages_own_scripts_may_run():
    text = page_html(page_contents([]))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    (allowed,) = re.findall(r"script-src ([^;]*);", policy)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert allowed.split() == [hash_of(script) for script in scripts]
    assert len(text) < 1_600_000


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "curves.html"
    write_html(sweep_rows(), path)
    return path


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_page_opens_without_errors_and_fits(browser, sweep_page, width, dark):
    browser.open(sweep_page, width, dark)
    wide = "const d = document.documentElement; return d.scrollWidth <= d.clientWidth"
    assert browser.run(wide), "the page scrolls sideways"
    ink = browser.run("return document.getElementById('plot').layout.font.color")
    assert ink == ("#e7eaec" if dark else "#1d2328")
    assert browser.errors() == []


def test_choosers_change_the_plot(browser, sweep_page):
    browser.open(sweep_page)
    assert {trace["facet"] for trace in browser.shown() if "facet" in trace} == {0}
    browser.choose("model", "facebook/opt-125m")
    assert {trace["facet"] for trace in browser.shown() if "facet" in trace} == {1}
    browser.run("document.querySelector('[data-name=\"method:wanda\"]').click()")
    browser.run("document.querySelector('[data-name=\"regime:oneshot\"]').click()")
    seen = {(t["method"], t["regime"]) for t in browser.shown() if t["kind"] == "curve"}
    trained = ("finetune", "iterative")
    assert seen == {(m, r) for m in ("alps", "magnitude", "sparsegpt") for r in trained}
    assert browser.errors() == []


def test_one_click_changes_the_scale(browser, sweep_page):
    browser.open(sweep_page)
    scale = "return document.getElementById('plot')._fullLayout.yaxis.type"
    assert browser.run(scale) == "log"
    browser.run("document.querySelector('[data-scale=linear]').click()")
    assert browser.run(scale) == "linear"


@pytest.mark.parametrize("view", ["tokens", "seconds", "front", "sparsity"])
def test_views_draw_points_that_link_to_rows(browser, sweep_page, view):
    browser.open(sweep_page)
    browser.choose("view", view)
    curves = [trace for trace in browser.shown() if trace["kind"] == "curve"]
    assert curves and all(len(t["keys"]) == len(t["x"]) == len(t["y"]) for t in curves)
    assert browser.errors() == []


def test_front_has_no_point_that_another_beats(browser, sweep_page):
    browser.open(sweep_page)
    browser.choose("view", "front")
    behind, front, _ = browser.shown()
    points = list(zip(front["x"], front["y"]))
    for x, y in points + list(zip(behind["x"], behind["y"])):
        beaten = any(a >= x and b < y for a, b in points)
        assert beaten != ((x, y) in points)


def test_choosing_a_row_marks_its_point(browser, sweep_page):
    browser.open(sweep_page)
    browser.choose("find", "opt-125m sparsegpt iterative 0.7")
    browser.run("document.querySelector('#rows tbody tr').click()")
    assert browser.run("return document.getElementById('model').value") == "facebook/opt-125m"
    (ring,) = [trace for trace in browser.shown() if trace["kind"] == "ring"]
    key = browser.run("return document.querySelector('[aria-selected=true]').dataset.key")
    curves = [trace for trace in browser.shown() if trace["kind"] == "curve"]
    (curve,) = [trace for trace in curves if any(key in keys for keys in trace["keys"])]
    at = next(i for i, keys in enumerate(curve["keys"]) if key in keys)
    assert (ring["x"], ring["y"]) == ([curve["x"][at]], [curve["y"][at]])
    assert "iterative" in browser.run("return document.getElementById('chosen').textContent")


def test_choosing_a_failed_row_rings_its_mark_in_the_strip(browser, sweep_page):
    browser.open(sweep_page)
    browser.choose("status", "failed")
    browser.run("document.querySelector('#rows tbody tr').click()")
    (ring,) = [trace for trace in browser.shown() if trace["kind"] == "ring"]
    assert ring["axis"] == "y2" and len(ring["x"]) == 1


def test_clicking_a_point_shows_its_row(browser, sweep_page):
    browser.open(sweep_page)
    key = next(t for t in browser.shown() if t["kind"] == "curve" and t["method"] == "wanda")[
        "keys"
    ][3][0]
    browser.run(
        "const keys = document.getElementById('plot').data.flatMap(t => t.customdata ?? []);"
        "const customdata = keys.find(k => k.includes(arguments[0]));"
        "document.getElementById('plot').emit('plotly_click', {points: [{customdata}]})",
        key,
    )
    assert browser.run("return document.querySelector('[aria-selected=true]').dataset.key") == key


def test_table_sorts_filters_and_turns_pages(browser, sweep_page):
    browser.open(sweep_page)
    assert len(browser.table()) == 50
    browser.choose("find", "opt-125m wanda oneshot")
    assert len(browser.table()) == 24
    browser.run("document.querySelector('[data-sort=perplexity]').click()")
    values = [float(row[7]) for row in browser.table()]
    assert values == sorted(values) and values[-1] == math.inf
    browser.choose("find", "")
    browser.run("document.getElementById('next').click()")
    assert browser.run("return document.getElementById('range').textContent").startswith("51–100")
    browser.choose("status", "not_run")
    assert {row[6] for row in browser.table()} == {"not_run"}


def test_columns_that_no_row_has_anything_in_leave_the_room_to_others(browser, tmp_path):
    titles = "return [...document.querySelectorAll('#rows th')].map(t => t.textContent)"
    rows = [make_row(), make_row(seed=1)]
    write_html(rows, tmp_path / "plain.html")
    write_html([*rows, make_row(mask_structure="2:4")], tmp_path / "structured.html")
    browser.open(tmp_path / "plain.html")
    assert "mask structure" not in browser.run(titles) and "perplexity" in browser.run(titles)
    browser.open(tmp_path / "structured.html")
    assert "mask structure" in browser.run(titles)
    write_html([*rows, make_row(seed=2) | {"task:tiny:acc": 0.4}], tmp_path / "tasks.html")
    browser.open(tmp_path / "tasks.html")
    assert browser.run(titles)[-1] == "task:tiny:acc"


def test_keyboard_walks_and_chooses_rows(browser, sweep_page):
    browser.open(sweep_page)
    press = (
        "document.activeElement.dispatchEvent("
        "new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))"
    )
    browser.run("document.querySelector('#rows tbody tr').focus()")
    browser.run(press, "ArrowDown")
    browser.run(press, "Enter")
    chosen = (
        "return [...document.querySelectorAll('#rows tbody tr')]"
        ".findIndex(row => row.ariaSelected === 'true')"
    )
    assert browser.run(chosen) == 1
    assert browser.run("return document.activeElement.tagName") == "TR"


def test_every_control_has_a_name_and_can_be_focused(browser, sweep_page):
    browser.open(sweep_page)
    nameless = browser.run(
        "return [...document.querySelectorAll('select, input, main button')].filter(e =>"
        " e.tabIndex < 0 || !(e.labels?.[0]?.textContent || e.textContent || e.ariaLabel)?.trim())"
        ".map(e => e.outerHTML)"
    )
    assert nameless == []


def test_csv_has_every_column_and_the_filtered_rows(browser, sweep_page):
    browser.open(sweep_page)
    browser.choose("find", "opt-125m wanda oneshot")
    browser.run(
        "URL.createObjectURL = (blob) => { window.saved = blob.text(); return '#'; };"
        "document.getElementById('csv').click()"
    )
    head, *lines = browser.run("return window.saved").splitlines()
    assert head.split(",") == [f'"{name}"' for name in SCHEMA.names]
    assert len(lines) == 24


def test_best_table_says_how_sure_a_lead_is(browser, sweep_page):
    browser.open(sweep_page)
    text = browser.run("return document.getElementById('best').innerText")
    assert "0.7\talps · iterative" in text and "clear" in text and "within the spread" in text


def test_new_data_keeps_what_the_reader_chose(browser, sweep_page):
    browser.open(sweep_page)
    browser.choose("model", "facebook/opt-125m")
    browser.run("document.querySelector('[data-scale=linear]').click()")
    browser.run("document.querySelector('[data-name=\"method:wanda\"]').click()")
    browser.run("show(JSON.parse(byId('data').textContent))")
    chosen = browser.run("return [byId('model').value, page.state.scales.perplexity]")
    assert chosen == ["facebook/opt-125m", "linear"]
    assert "wanda" not in {trace.get("method") for trace in browser.shown()}


def test_hostile_text_stays_text(browser, tmp_path):
    known = {"model": EVIL, "method": EVIL, "regime": EVIL, "eval_text": EVIL}
    rows = [make_row(**known), make_row(**known, sparsity=0.7, status="failed", error=EVIL * 50)]
    rows.append(make_row(**known, mask_structure=EVIL, method_settings=EVIL))
    write_html(rows, tmp_path / "evil.html", provenance={"command": EVIL})
    browser.open(tmp_path / "evil.html")
    browser.choose("find", "onerror")
    browser.run("document.querySelectorAll('#rows tbody tr')[2].click()")
    assert browser.run("return window.hacked ?? null") is None
    assert browser.run("return document.querySelectorAll('main img').length") == 0
    assert browser.table()[0][0] == EVIL
    assert browser.errors() == []


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [make_row(status="failed", error="boom")],
        [make_row(status="not_run"), make_row(method="dense", regime="dense", status="failed")],
        sweep_rows()[:200],
    ],
    ids=["none", "failed", "not_run", "half"],
)
def test_a_sweep_that_is_not_finished_can_be_looked_at(browser, tmp_path, rows):
    write_html(rows, tmp_path / "half.html")
    browser.open(tmp_path / "half.html")
    for view in browser.run("return Object.keys(VIEWS).reverse()"):
        browser.choose("view", view)
    assert len(browser.table()) == min(50, len(rows))
    assert browser.errors() == []
