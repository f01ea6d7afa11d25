"""In a real browser: what needs no mouse, no network and no small sweep."""

import itertools
import runpy
import sys
from pathlib import Path

import pytest

from orchestrator.page.document import write_html

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, sweep_rows = _synthetic["make_row"], _synthetic["sweep_rows"]
CONTROLS = "select, input, button, summary, a[href], [role=button], [tabindex='0']"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reach") / "curves.html"
    write_html(sweep_rows(), path)
    return path


def test_the_tab_key_reaches_every_control(browser, tmp_path):
    write_html(sweep_rows({"m": 20.0}, sparsities=(0.5, 0.7), seeds=(0,)), tmp_path / "small.html")
    browser.open(tmp_path / "small.html")
    wanted = browser.run(
        "window.seen = new Set(); document.addEventListener('focusin', e => seen.add(e.target));"
        f"window.all = [...document.querySelectorAll(`{CONTROLS}`)].filter(e =>"
        " !e.disabled && e.checkVisibility());"
        "return all.length"
    )
    assert wanted > 80, "the cells of the heat table too"
    for _ in range(wanted + 5):
        browser.press("Tab", 9)
    missed = browser.run("return all.filter(e => !seen.has(e)).map(e => e.outerHTML.slice(0, 90))")
    assert missed == []


def test_the_plots_own_buttons_answer_the_keyboard(browser, page):
    browser.open(page)
    span = "return document.getElementById('plot')._fullLayout.xaxis.range"
    before = browser.run(span)
    browser.run("document.querySelector('.modebar-btn[data-title=\"Zoom in\"]').focus()")
    assert browser.run("return document.activeElement.ariaLabel") == "Zoom in"
    browser.press("Enter", 13, "\r")
    after = browser.run(span)
    assert before[0] < after[0] < after[1] < before[1]


def test_every_control_has_a_name(browser, page):
    browser.open(page)
    nameless = browser.run(
        "return [...document.querySelectorAll('select, input, main button')].filter(e =>"
        " !(e.labels?.[0]?.textContent || e.textContent || e.ariaLabel)?.trim())"
        ".map(e => e.outerHTML)"
    )
    assert nameless == []


def test_the_page_is_whole_without_a_network(browser, page):
    browser.devtools("Network.enable")
    off = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.devtools("Network.emulateNetworkConditions", **off)
    try:
        browser.open(page)
        assert browser.curves()
        asked = "return performance.getEntriesByType('resource').map(e => e.name)"
        assert [name for name in browser.run(asked) if not name.startswith("data:")] == []
        assert browser.errors() == []
    finally:
        on = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        browser.devtools("Network.emulateNetworkConditions", **on)


AXE = Path(sys.prefix) / "npm" / "node_modules" / "axe-core" / "axe.min.js"
SERIOUS = (
    "return axe.run({resultTypes: ['violations']}).then(r => r.violations"
    ".filter(v => ['serious', 'critical'].includes(v.impact))"
    ".map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 150), v.nodes[0].failureSummary]))"
)


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(browser, page, dark):
    if not AXE.exists():
        pytest.skip("needs axe-core from npm: python .ci/scripts.py installs it")
    browser.open(page, dark=dark)
    browser.run("document.querySelector('.board.chosen tr:nth-child(4) [data-cell]').click()")
    browser.run(AXE.read_text(encoding="utf-8"))
    assert browser.run(SERIOUS) == []


def test_without_scripts_all_boards_can_be_read(browser, page):
    browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        tree = browser.devtools("Accessibility.getFullAXTree")["nodes"]
    finally:
        browser.devtools("Emulation.setScriptExecutionDisabled", value=False)
    roles = ("StaticText", "image")
    told = [node for node in tree if node["role"]["value"] in roles]
    names = [node.get("name", {}).get("value", "") for node in told]
    assert sum(name.startswith("Within 10 % of dense:") for name in names) == 2, "one a model"
    assert sum(name.startswith("Ratio to the dense perplexity") for name in names) == 2
    assert "22.8 ± 0.5 (3)" in names and "Copy link" not in names


def test_print_has_answer_table_and_the_static_picture_in_black_on_white(browser, page):
    browser.open(page, dark=True)
    browser.devtools("Emulation.setEmulatedMedia", media="print")
    try:
        seen = browser.run(
            "const shown = (q) => document.querySelector(q).checkVisibility();"
            "return [shown('.board.chosen .answer'), shown('.board.chosen .static'),"
            " shown('#plot'),"
            " shown('.board.chosen table'), getComputedStyle(document.body).backgroundColor]"
        )
        assert seen == [True, True, False, True, "rgb(255, 255, 255)"]
        assert len(browser.devtools("Page.printToPDF")["data"]) > 10_000
    finally:
        browser.devtools("Emulation.setEmulatedMedia", media="")


def stages_of(rows: list[dict], matrices: int) -> dict[str, dict]:
    """A prune stage behind every row and a round of training behind those that trained."""
    names = [f"model.decoder.layers.{i // 6}.fc{i % 6}" for i in range(matrices)]
    manifests = {}
    for row in rows:
        errors = [0.0123 + i * 1e-4 for i in range(matrices)]
        layers = {"names": names, "errors": errors, "sparsity": [0.7, *[0.5] * (matrices - 1)]}
        prune = {"matrices": {**layers, "statistic": "Hessian"}}
        trained = bool(row["num_finetune_tokens"])
        under = f"{row['stage_id']}p" if trained else row["stage_id"]
        manifests[under] = {"kind": "prune", "parent": "root", "metrics": prune}
        if trained:
            loss = {"num_tokens": 1024, "num_steps": 200, "steps_resumed": 0}
            loss["losses"] = [3.1415 - i * 1e-3 for i in range(200)]
            manifests[row["stage_id"]] = {"kind": "finetune", "parent": under, "metrics": loss}
    return manifests


def test_three_thousand_rows_with_all_their_stages_stay_fluid(browser, tmp_path):
    rows = sweep_rows(sparsities=tuple(round(0.1 + 0.02 * i, 2) for i in range(41)))
    assert len(rows) > 3000
    manifests = stages_of(rows, matrices=72)
    write_html(rows, tmp_path / "large.html", manifest=manifests.get)
    browser.open(tmp_path / "large.html")
    paint = "return performance.getEntriesByType('paint').at(-1).startTime"
    loaded = "return performance.timing.loadEventEnd - performance.timing.navigationStart"
    assert browser.run(loaded) < 6000
    assert browser.run(paint) < 3000  # On a machine that does other work; alone it is below 1500.
    # The best of three: what else the machine does is not the page's.
    spent = (
        "return Math.min(...[1, 2, 3].map(() => {"
        " const t = performance.now(); drawAll(); return performance.now() - t; }))"
    )
    for view in ("sparsity", "layers", "losses"):
        browser.run(f"set({{view: '{view}'}})")
        assert browser.run(spent) < 1500, view
    assert browser.errors() == []


def test_every_kind_of_axis_can_be_large(browser, tmp_path):
    """12 models x 4 methods x 3 regimes x 9 sparsities x 3 texts, some 4,000 rows of one seed."""
    models = {f"model-{i}": 20.0 + i for i in range(12)}
    sparsities = tuple(round(0.1 * i, 1) for i in range(1, 10))
    rows = sweep_rows(models, sparsities=sparsities, seeds=(0,))
    texts = ("wikitext2", "ptb", "c4")
    many = [row | {"eval_text": text} for row, text in itertools.product(rows, texts)]
    write_html(many, tmp_path / "many.html")
    assert (tmp_path / "many.html").stat().st_size < 7_000_000
    for fragment in ("facet=model", "facet=text&color=regime", "color=model&view=size"):
        browser.call("/url", {"url": "about:blank"})
        browser.open(tmp_path / "many.html", fragment=fragment)
        assert browser.curves()
    assert browser.errors() == []
