"""The page as text, and in a real browser where chromium and chromedriver are installed."""

import json
import math
import re
import runpy
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs_version

from orchestrator.page.answers import with_flags
from orchestrator.page.contents import page_contents
from orchestrator.page.document import PLOTLY, asset, hash_of, page_html, write_html
from orchestrator.page.news import values_of
from orchestrator.results.schema import SCHEMA

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, sweep_rows = _synthetic["make_row"], _synthetic["sweep_rows"]
EVIL = "<script>window.hacked = 1</script>\"'</td><img src=x onerror='window.hacked = 2'>&lt;"
DENSE, seeds = _synthetic["DENSE"], _synthetic["seeds"]


def data_of(text: str) -> dict:
    (island,) = text.split('id="data">')[1:]
    return json.loads(island.split("</script>")[0], parse_constant=pytest.fail)


def test_rows_reach_the_page_whole_and_as_valid_json():
    rows = [make_row(seed=i, perplexity=v) for i, v in enumerate((1.5, math.nan, math.inf))]
    data = data_of(page_html(page_contents(rows), plotly_js=""))
    assert data["rows"]["names"] == SCHEMA.names
    assert values_of(data["rows"], "perplexity") == [1.5, "nan", "inf"]
    assert values_of(data["rows"], "model") == ["facebook/opt-125m"] * 3
    assert len({*values_of(data["rows"], "key")}) == 3
    assert len({*values_of(data["rows"], "group")}) == 1, "seeds of one cell"


def test_task_results_are_columns_of_the_page():
    rows = [make_row() | {"task:tiny:acc": 0.4}, make_row(seed=1)]
    data = data_of(page_html(page_contents(rows), plotly_js=""))
    assert data["rows"]["names"] == [*SCHEMA.names, "task:tiny:acc"]
    assert sorted(values_of(data["rows"], "task:tiny:acc"), key=str) == [0.4, None]


def test_nothing_from_rows_notes_or_provenance_is_markup():
    known = {"model": EVIL, "method": EVIL, "regime": EVIL, "eval_text": EVIL}
    rows = [make_row(**known), make_row(**known, sparsity=0.7, status="failed", error=EVIL)]
    contents = page_contents(rows, provenance={EVIL: EVIL}, notes=EVIL)
    text = page_html(contents, plotly_js="")
    assert "<img" not in text and "<script>window" not in text
    assert EVIL in values_of(data_of(text)["rows"], "error")
    assert data_of(text)["head"]["notes"] == EVIL


def test_no_line_breaks_at_the_hyphens_of_a_flag():
    assert with_flags("add --finetune.lr 1e-3 <b>.") == (
        'add <span class="flag">--finetune.lr</span> 1e-3 &lt;b&gt;.'
    )


def test_settings_panel_lists_every_value_and_the_command():
    rows = [make_row(), make_row(seed=1, torch_version="2.11.0")]
    contents = page_contents(rows, provenance={"command to reproduce": "python x.py --a b"})
    told = dict(contents["settings"])
    assert told["command to reproduce"] == ["python x.py --a b"]
    assert told["torch"] == ["2.11.0", "2.13.0"]
    assert "<dd>python x.py --a b</dd>" in page_html(contents, plotly_js="")


def test_the_command_that_retries_says_so_once():
    for command in ("python x.py --a 1", "python x.py --retry-failed --a 1"):
        contents = page_contents([make_row()], provenance={"command to reproduce": command})
        assert contents["commands"][""]["retry"].count("--retry-failed") == 1


def test_the_head_says_models_methods_texts_seeds_date_and_commit():
    head = page_contents([DENSE, *seeds("wanda", 40.0, 41.0), *seeds("alps", "failed")])["head"]
    assert head["title"] == "Pruning facebook/opt-125m on wikitext2"
    assert head["facts"] == ("alps, wanda · oneshot · 1 target · 2 seeds · 2026-01-05 · code 0.1.0")
    assert head["failed"] == 1


def test_without_scripts_answer_heat_table_and_picture_are_in_the_html():
    rows = [DENSE, *seeds("sparsegpt", 49.0, "failed", "failed"), *seeds("wanda", 60.1, 60.0, 60.2)]
    text = page_html(page_contents(rows), plotly_js="").split('id="data"')[0]
    assert "<strong>Within 3×:</strong> 50 % sparsity (wanda · oneshot, 3 seeds)." in text
    assert "Not counted: sparsegpt · oneshot (49.00 on 1 of 3 seeds, failed)." in text
    cells = re.findall(r'<td class="([^"]*)"><button type="button" data-cell="0.5">([^<]*)<', text)
    assert cells == [("h5 part", "49.00 ! (1 of 3)"), ("h6 best", "60.1 ± 0.1 (3)")]
    (drawing,) = re.findall(r"<svg class=\"static\".*?</svg></section>", text)
    assert "wanda · oneshot</text>" in drawing and drawing.count("<circle") == 2


def test_the_lowest_of_one_seed_is_outlined_as_no_more_than_that():
    text = page_html(
        page_contents([DENSE, *seeds("wanda", 40.0), *seeds("alps", 39.0)]), plotly_js=""
    )
    assert 'class="h4 lowest"><button type="button" data-cell="0.5">39.00<' in text


def test_published_values_are_those_of_methods_that_were_run():
    rows = [DENSE, *seeds("wanda", 40.0), *seeds("wanda", 200.0, sparsity=0.7)]
    found = page_contents(rows)["published"]
    assert found and {value["method"] for value in found} == {"wanda"}
    assert {value["target"] for value in found} <= {"0.5", "0.7"}


def test_settings_that_vary_are_dimensions_of_the_figure():
    rows = [*seeds("wanda", 40.0), *seeds("alps", 39.0), *seeds("wanda", 41.0, schedule="cubic")]
    contents = page_contents(rows)
    names = [each["name"] for each in contents["dimensions"]]
    assert names == ["sweep", "model", "text", "method", "regime", "schedule"]
    assert {line["at"]["schedule"] for line in contents["lines"]} == {"", "cubic"}


def test_pairs_are_compared_in_python_with_the_settings_that_differ():
    rows = [
        DENSE,
        *seeds("wanda", 40.0, 41.0, 40.5),
        *seeds("alps", 30.0, 30.5, 30.2, budget="total"),
    ]
    contents = page_contents(rows)
    (told,) = contents["pairs"].values()
    assert told["differ"] == [["budget", "total", ""]]
    ((target, ratio, spread, verdict),) = told["targets"]
    assert (target, ratio, verdict) == ("0.5", "+34 %", "clearly higher")
    assert spread.startswith("+") and " to +" in spread


def test_models_of_different_size_compare_by_their_ratio_to_dense():
    small = [DENSE, *seeds("wanda", 55.32)]
    other = {"model": "big", "dense_perplexity": 10.0}
    large = [r | other for r in [DENSE | {"perplexity": 10.0}, *seeds("wanda", 15.0)]]
    large = [r | {"cell_id": f"big {r['cell_id']}"} for r in large]
    (told,) = page_contents(small + large)["pairs"].values()
    assert told["targets"] == [["0.5", "+33 %", "", "one seed: no claim"]]


def test_lines_of_other_windows_or_protocols_are_not_compared():
    one = [DENSE, *seeds("wanda", 55.32)]
    for known in ({"eval_seq_len": 512}, {"protocol": "wanda"}):
        other = {"model": "big", "dense_perplexity": 10.0, **known}
        rows = one + [r | other | {"cell_id": f"big {r['cell_id']}"} for r in one]
        assert page_contents(rows)["pairs"] == {}


def test_a_page_says_if_it_leaves_pairs_out(monkeypatch):
    rows = [DENSE, *seeds("wanda", 40.0), *seeds("alps", 39.0), *seeds("sparsegpt", 38.0)]
    assert page_contents(rows)["all_pairs"]
    monkeypatch.setattr("orchestrator.page.drawn.MAX_PAIRS", 1)
    contents = page_contents(rows)
    assert not contents["all_pairs"] and len(contents["pairs"]) == 2


def test_details_are_left_out_of_a_page_of_many_rows(monkeypatch):
    asked = []
    assert page_contents([make_row()], manifest=asked.append)["later"] == 0 and asked
    monkeypatch.setattr("orchestrator.page.packing.MANY_ROWS", 1)
    asked.clear()
    contents = page_contents([make_row()], manifest=asked.append)
    assert contents["later"] == 1 and contents["details"] == {} and not asked


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
    provenance = {"command to reproduce": "python experiments/sweep_opt.py --x 1", "out-dir": "o d"}
    write_html(sweep_rows(), path, provenance=provenance, notes="# Mine")
    return path


def ready(browser, path, fragment="", **how):
    """Open the page at a fragment, from nowhere, so that it starts anew."""
    browser.call("/url", {"url": "about:blank"})
    browser.open(path, fragment=fragment, **how)


def fragment(browser) -> str:
    return browser.run("return location.hash")


@pytest.mark.parametrize(
    ("width", "dark"), [(1440, True), (1280, False), (768, True), (390, False)]
)
def test_page_opens_without_errors_and_fits(browser, sweep_page, width, dark):
    ready(browser, sweep_page, width=width, dark=dark)
    assert browser.run("return document.getElementById('title').clientHeight") < 70
    wide = "const d = document.documentElement; return d.scrollWidth <= d.clientWidth"
    assert browser.run(wide), "the page scrolls sideways"
    ink = browser.run("return document.getElementById('plot').layout.font.color")
    assert ink == ("#e7eaec" if dark else "#1d2328")
    assert browser.errors() == []


def test_answer_and_figure_are_seen_without_scrolling(browser, sweep_page):
    ready(browser, sweep_page, width=1440)
    bottom = (
        "return arguments[0].map(q => document.querySelector(q).getBoundingClientRect().bottom)"
    )
    answer, ticks = browser.run(bottom, [".board.chosen .answer", "#plot .xtick"])
    assert answer < ticks < 900


def test_choosers_change_the_plot(browser, sweep_page):
    ready(browser, sweep_page)
    browser.choose("model", "facebook/opt-125m")
    assert "opt-125m" in browser.run("return document.querySelector('.board.chosen').ariaLabel")
    browser.run("document.querySelector('[data-chip=\"method=wanda\"]').click()")
    assert {t["method"] for t in browser.curves()} == {"wanda"}, "a click shows one alone"
    browser.run("document.querySelector('[data-chip=\"method=wanda\"]').click()")
    assert len({t["method"] for t in browser.curves()}) == 4, "a second one shows all"
    browser.shift_click('[data-chip="regime=oneshot"]')
    assert {t["regime"] for t in browser.curves()} == {"finetune", "iterative"}
    assert browser.errors() == []


def test_a_link_restores_every_choice(browser, sweep_page):
    ready(browser, sweep_page)
    browser.choose("model", "facebook/opt-125m")
    browser.choose("tol", "1.5")
    browser.choose("facet", "regime")
    browser.run("document.querySelector('[data-set=\"range=full\"]').click()")
    browser.run("document.querySelector('.board.chosen [data-at=\"0.5\"]').click()")
    browser.run("document.querySelector('[data-chip=\"method=wanda\"]').click()")
    browser.run(
        "document.querySelector('.board.chosen tr:nth-child(2) [data-cell=\"0.9\"]').click()"
    )
    browser.choose("find", "alps sparsity:0.7")
    seen = (
        "return [location.hash, byId('model').value, byId('tol').value, byId('find').value,"
        " byId('facet').value, byId('drawer').innerText, byId('rows').innerText,"
        " byId('chips').innerHTML,"
        " document.querySelector('.board.chosen .answer').innerText,"
        " JSON.stringify(byId('plot').data.map(t => [t.x, t.y, t.meta, t.opacity]))]"
    )
    before = browser.run(seen)
    ready(browser, sweep_page, fragment=before[0][1:])
    assert browser.run(seen) == before
    browser.run("location.hash = ''")
    assert browser.run("return byId('tol').value") == "1.1", (
        "an address without choices is the start"
    )
    assert browser.errors() == []


def test_zoom_survives_other_choices_and_a_link(browser, sweep_page):
    ready(browser, sweep_page)
    browser.run(
        "return Plotly.relayout('plot', {'xaxis.range[0]': 0.35, 'xaxis.range[1]': 0.75,"
        " 'yaxis.range[0]': 0.05, 'yaxis.range[1]': 0.3}).then(() => 0)"
    )
    span = "const l = byId('plot')._fullLayout; return [...l.xaxis.range, ...l.yaxis.range]"
    assert browser.run(span) == pytest.approx([0.35, 0.75, 0.05, 0.3])
    browser.run("document.querySelector('[data-chip=\"method=wanda\"]').click()")
    browser.run("document.querySelector('.board.chosen [data-at=\"0.5\"]').click()")
    assert browser.run(span) == pytest.approx([0.35, 0.75, 0.05, 0.3])
    ready(browser, sweep_page, fragment=fragment(browser)[1:])
    assert browser.run(span) == pytest.approx([0.35, 0.75, 0.05, 0.3])


def test_the_axis_starts_at_the_ratio_to_dense_and_shows_all_on_a_click(browser, sweep_page):
    ready(browser, sweep_page)
    span = "return byId('plot')._fullLayout.yaxis.range.map(v => 10 ** v)"
    low, high = browser.run(span)
    assert 0.8 < low < 1 and 2.9 < high < 3.3
    ticks = browser.run("return byId('plot')._fullLayout.yaxis.ticktext")
    assert {"1×", "2×", "3×"} <= set(ticks)
    browser.run("document.querySelector('[data-set=\"range=full\"]').click()")
    assert browser.run(span)[1] > 1000
    browser.run("document.querySelector('[data-set=\"y=perplexity\"]').click()")
    assert browser.run("return byId('plot')._fullLayout.yaxis.title.text") == "perplexity"


def test_lines_have_names_at_their_ends_and_structures_columns_of_their_own(browser, sweep_page):
    ready(browser, sweep_page)
    names = "return byId('plot').layout.annotations.map(a => a.text)"
    assert {"alps · iterative", "wanda · oneshot", "no value"} <= set(browser.run(names))
    ticks = "const x = byId('plot')._fullLayout.xaxis; return [x.ticktext, x.tickvals]"
    text, places = browser.run(ticks)
    assert text[-2:] == ["0.9", "2:4"] and places[-1] > places[-2] + 0.05


def test_hover_lists_all_lines_of_a_target_in_order(browser, sweep_page):
    ready(browser, sweep_page)
    text = browser.run(
        "return byId('plot').data.find("
        "t => t.meta.kind === 'curve' && t.meta.method === 'wanda').hovertext[2]"
    )
    lines = text.split("<br>")
    assert lines[0] == "<b>0.5</b>" and len(lines) == 14
    values = [float(re.search(r"= ([\d.]+)×", line)[1]) for line in lines[1:]]
    assert values == sorted(values)
    assert sum("<b>wanda" in line for line in lines) == 1


@pytest.mark.parametrize("facet", ["model", "method", "regime"])
def test_the_figure_is_split_by_any_dimension(browser, sweep_page, facet):
    ready(browser, sweep_page, fragment=f"facet={facet}")
    count = {"model": 2, "method": 4, "regime": 3}[facet]
    axes = browser.run("return [...new Set(byId('plot').data.map(t => t.xaxis))].length")
    assert axes == count
    titles = browser.run("return byId('plot').layout.annotations.map(a => a.text)")
    values = browser.run(f"return dimension('{facet}').values.map(v => v.value)")
    assert set(values) <= set(titles)
    assert not any(" · " in title for title in titles), "names of lines would cover other panels"
    main = browser.run(
        "const l = byId('plot')._fullLayout; return Object.keys(l).filter(k =>"
        " /^yaxis([1-9]|1\\d)?$/.test(k)).map(k => l[k].domain.join())"
    )
    assert len({*main}) == 1, "panels have one height, with or without cells in the lane"
    if facet == "method":
        marks = [t for t in browser.shown() if t["kind"] == "published"]
        curves = {(t["method"], t["axis"]) for t in browser.curves()}
        assert all((mark["method"], mark["axis"]) in curves for mark in marks)
    assert browser.errors() == []


def test_models_lie_over_each_other_where_they_give_the_colour(browser, sweep_page):
    ready(browser, sweep_page, fragment="color=model&view=size")
    boards = browser.run("return document.querySelectorAll('.board.chosen').length")
    colors = {t["color"] for t in browser.curves()}
    assert boards == 2 and len(colors) == 2
    assert browser.errors() == []


def test_clicking_a_point_shows_its_line_alone_and_opens_its_cell(browser, sweep_page):
    ready(browser, sweep_page)
    click = (
        "const t = byId('plot').data.filter(t => t.meta.kind === 'curve')[arguments[0]];"
        "byId('plot').emit('plotly_click', {points: [{customdata: t.customdata[2]}],"
        " event: {shiftKey: arguments[1]}}); return t.meta.line"
    )
    first = browser.run(click, 0, False)
    shown = {t["line"] for t in browser.curves() if t["opacity"] == 1}
    assert shown == {first}
    assert "at 0.5" in browser.run("return byId('drawer').innerText")
    second = browser.run(click, 2, True)
    assert {t["line"] for t in browser.curves() if t["opacity"] == 1} == {first, second}
    compared = browser.run("return byId('compared').innerText")
    assert "95 % interval" in compared and re.search(r"0\.5\t", compared)
    seen = "return new Promise(done => setTimeout(() => done("
    seen += "byId('compare').getBoundingClientRect().top < innerHeight), 100))"
    assert browser.run(seen), "the comparison is brought into view"


def test_keys_open_any_cell_and_escape_closes_it(browser, sweep_page):
    ready(browser, sweep_page)
    browser.run(
        "document.querySelector('.board.chosen tr:nth-child(4) [data-cell=\"0.8\"]').focus()"
    )
    browser.press("Enter", 13, "\r")
    text = browser.run("return byId('drawer').innerText")
    assert "alps · iterative at 0.8" in text and "No perplexity: failed" in text
    assert "ValueError: loss of layer 7 is not finite; use --finetune.lr below 0.0003" in text
    assert "python experiments/sweep_opt.py --x 1 --retry-failed" in text
    assert "cell=" in fragment(browser)
    browser.press("Escape", 27)
    assert browser.run("return byId('drawer').hidden")
    assert browser.run("return document.activeElement.dataset.cell") == "0.8"
    assert "cell=" not in fragment(browser)


def test_a_cell_offers_the_commands_to_get_and_repeat_it(browser, sweep_page):
    ready(browser, sweep_page)
    browser.run(
        "document.querySelector('.board.chosen tr:nth-child(4) [data-cell=\"0.5\"]').click()"
    )
    commands = browser.run(
        "return [...document.querySelectorAll('#drawer code')].map(c => c.textContent)"
    )
    get, repeat = commands
    assert re.fullmatch(r"python -m orchestrator.browse 'o d' --get \S.{11} DEST", get)
    assert repeat.startswith("python experiments/sweep_opt.py --from-row ")


def test_the_chip_of_failed_cells_leads_to_an_error_and_its_command(browser, sweep_page):
    ready(browser, sweep_page)
    assert browser.run("return byId('failed').textContent") == "6 cells failed"
    browser.run("byId('failed').click()")
    text = browser.run("return byId('drawer').innerText")
    assert "loss of layer 7 is not finite" in text and "--retry-failed" in text


def test_find_looks_through_what_is_visible_and_through_columns(browser, sweep_page):
    ready(browser, sweep_page)

    def found(words):
        browser.choose("find", words)
        return int(browser.run("return byId('range').textContent").split("of")[-1].split()[0])

    everything = 2 * (4 * 3 * 8 + 1 + 7)
    assert found("") == everything
    assert found("wanda") == 2 * 3 * 8
    assert found("failed") == 2
    assert found("0.7") == 2 * 4 * 3
    assert found("method:wanda sparsity:0.7 opt-125m") == 3
    assert found("status:failed") == 2
    assert (
        browser.run(
            "byId('find').value = 'nowhere'; byId('find').dispatchEvent(new Event('input'));"
            "return byId('range').textContent"
        )
        == "no rows"
    )


def test_rows_are_cells_with_their_seeds_folded(browser, sweep_page):
    ready(browser, sweep_page, fragment="find=opt-125m wanda oneshot 0.5")
    (line,) = browser.table()
    assert "3 of 3 unfold" in line and any(" ± " in text for text in line)
    browser.run("document.querySelector('[data-open]').click()")
    lines = browser.table()
    assert len(lines) == 4 and [any("seed" in t for t in line) for line in lines[1:]] == [True] * 3
    head = browser.run("return [...document.querySelectorAll('#rows th')].map(t => t.textContent)")
    assert "pruning (s)" in head and "mask_structure" not in head


def test_table_sorts_turns_pages_and_shows_chosen_columns(browser, sweep_page):
    ready(browser, sweep_page)
    assert len(browser.table()) == 50
    browser.run("byId('next').click()")
    assert browser.run("return byId('range').textContent").startswith("51–100")
    ready(browser, sweep_page, fragment="columns=method,perplexity,device")
    browser.choose("find", "opt-125m wanda oneshot")
    browser.run("document.querySelector('[data-sort=perplexity]').click()")
    values = [float(row[1].split()[0]) for row in browser.table()]
    assert values == sorted(values) and len(values) == 8
    assert {row[2] for row in browser.table()} == {"cpu"}


def test_keyboard_walks_and_chooses_rows(browser, sweep_page):
    ready(browser, sweep_page)
    browser.run("document.querySelector('#rows tbody tr').focus()")
    browser.press("ArrowDown", 40)
    browser.press("Enter", 13, "\r")
    lines = "return [...document.querySelectorAll('#rows tbody tr')]"
    chosen = f"{lines}.findIndex(r => r.ariaSelected === 'true')"
    assert browser.run(chosen) == 1
    assert browser.run("return document.activeElement.tagName") == "TR"
    assert not browser.run("return byId('drawer').hidden")


def saved(browser, click):
    return browser.run(
        "URL.createObjectURL = (blob) => { window.saved = blob.text(); return '#'; };"
        f"{click}; return window.saved"
    )


def test_csv_has_every_column_and_the_filtered_rows(browser, sweep_page):
    ready(browser, sweep_page, fragment="find=opt-125m wanda oneshot")
    head, *lines = saved(browser, "byId('csv').click()").splitlines()
    assert head.split(",") == [f'"{name}"' for name in SCHEMA.names]
    assert len(lines) == 24


def test_no_cell_of_a_csv_is_a_formula(browser, tmp_path):
    write_html([DENSE, *seeds("=cmd()", 40.0), *seeds("alps", "failed")], tmp_path / "page.html")
    ready(browser, tmp_path / "page.html")
    text = saved(browser, "byId('csv').click()")
    assert ',"\'=cmd()"' in text and ',"=cmd' not in text
    text = saved(browser, "document.querySelector('[data-save=csv]').click()")
    assert "\"'=cmd()" in text and "1.446" in text, "the figure's numbers, as they are shown"


def test_a_figure_saved_in_the_dark_is_dark_on_white_and_named(browser, sweep_page):
    ready(browser, sweep_page, dark=True)
    svg, size = browser.run(
        "const {data, layout} = drawing(true, SAVED);"
        "return Plotly.toImage({data, layout: {...layout, ...SAVED}}, {format: 'svg', ...SAVED})"
        ".then(url => [decodeURIComponent(url), fileName()])"
    )
    assert "rgb(255, 255, 255)" in svg and "rgb(231, 234, 236)" not in svg
    assert "Sparsity: facebook/opt-1.3b" in svg
    assert size == "Sparsity-facebook-opt-1.3b-wikitext2-sparsegpt-window-2-048-286-720-tokens"


def test_survivors_are_not_the_best_on_the_page(browser, tmp_path):
    rows = [DENSE, *seeds("sparsegpt", 49.0, "failed", "failed"), *seeds("wanda", 60.1, 60.0, 60.2)]
    write_html(rows, tmp_path / "page.html")
    ready(browser, tmp_path / "page.html")
    text = browser.run("return document.querySelector('.board.chosen .answer').innerText")
    assert "At sparsity 0.5: wanda · oneshot with 60.1±0.1 (3 seeds)" in text
    assert "Not counted: sparsegpt · oneshot (49.00 on 1 of 3 seeds, failed)" in text
    assert "--seeds" not in text


def test_the_tolerance_is_a_control_of_the_answer(browser, sweep_page):
    ready(browser, sweep_page)
    lines = "return [...document.querySelectorAll('.board.chosen .within')]"
    lines += ".filter(e => !e.hidden).map(e => e.innerText)"
    assert [line.split(":")[0] for line in browser.run(lines)] == [
        "Within 10 % of dense",
        "Within 2×",
    ]
    browser.choose("tol", "1.5")
    assert browser.run(lines)[0].startswith("Within 50 % of dense: 60 % sparsity")


def test_a_pair_that_is_left_out_has_its_own_reason(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.page.drawn.MAX_PAIRS", -1)
    write_html([DENSE, *seeds("wanda", 40.0), *seeds("alps", 39.0)], tmp_path / "page.html")
    ready(browser, tmp_path / "page.html")
    browser.run("set({pick: page.data.lines.map(line => line.id)})")
    text = browser.run("return byId('compared').innerText")
    assert "leaves some pairs out" in text and "differ" not in text.split("\n\n")[-1]


def test_new_data_keeps_what_the_reader_chose(browser, sweep_page):
    ready(browser, sweep_page)
    browser.choose("model", "facebook/opt-125m")
    browser.run("document.querySelector('[data-chip=\"method=wanda\"]').click()")
    browser.run("document.querySelector('.board.chosen [data-at=\"0.5\"]').focus()")
    browser.run("show({...page.data, fresh: []})")
    assert browser.run("return byId('model').value") == "facebook/opt-125m"
    assert {t["method"] for t in browser.curves()} == {"wanda"}
    assert browser.run("return document.activeElement.dataset.at") == "0.5", "news took the focus"


def test_hostile_text_stays_text(browser, tmp_path):
    known = {"model": EVIL, "method": EVIL, "regime": EVIL, "eval_text": EVIL}
    rows = [make_row(**known), make_row(**known, sparsity=0.7, status="failed", error=EVIL * 50)]
    rows.append(make_row(**known, mask_structure=EVIL, method_settings=EVIL))
    write_html(rows, tmp_path / "evil.html", provenance={"command": EVIL}, notes=EVIL)
    ready(browser, tmp_path / "evil.html")
    for view in browser.run("return Object.keys(VIEWS)"):
        browser.run(f"document.querySelector('[data-set=\"view={view}\"]').click()")
    browser.run("document.querySelectorAll('#rows tbody tr')[2].click()")
    browser.run(
        "show({...page.data, fresh:"
        " page.data.boards.map(b => ({...b, html: byId('boards').innerHTML}))})"
    )
    assert browser.run("return window.hacked ?? null") is None
    assert browser.run("return document.querySelectorAll('main img, aside img').length") == 0
    assert (
        EVIL in browser.table()[0] and browser.run("return byId('notes-text').textContent") == EVIL
    )
    assert browser.errors() == []


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([], 0),
        ([make_row(status="failed", error="boom")], 1),
        (
            [make_row(status="not_run"), make_row(method="dense", regime="dense", status="failed")],
            2,
        ),
        (sweep_rows()[:200], 50),
    ],
    ids=["none", "failed", "not_run", "half"],
)
def test_a_sweep_that_is_not_finished_can_be_looked_at(browser, tmp_path, rows, count):
    write_html(rows, tmp_path / "half.html")
    ready(browser, tmp_path / "half.html")
    if rows:
        for view in browser.run("return Object.keys(VIEWS).reverse()"):
            browser.run(f"document.querySelector('[data-set=\"view={view}\"]').click()")
    assert len(browser.table()) == count
    assert browser.errors() == []
