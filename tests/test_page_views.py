"""In a real browser: every view of the figure keeps what views.js says that a view is."""

import runpy
from pathlib import Path

import pytest

from orchestrator.page.document import write_html

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
VIEWS = "return Object.entries(VIEWS).map(([name, v]) => ({name, title: v.title, x: v.x.title,"
VIEWS += " y: v.y.title, legend: v.legend, references: v.references ?? false}))"


@pytest.fixture(scope="module")
def views(browser, tmp_path_factory) -> list[dict]:
    """All views of a page that stays open in the browser."""
    path = tmp_path_factory.mktemp("views") / "curves.html"
    write_html(_synthetic["sweep_rows"](sparsities=(0.3, 0.7), seeds=(0,)), path)
    browser.open(path)
    return browser.run(VIEWS)


def test_the_chooser_offers_every_view_by_its_title(browser, views):
    options = browser.run("return [...document.querySelectorAll('#view option')].map(o => o.text)")
    assert options == [view["title"] for view in views] and len({*options}) == len(options) >= 7


def test_every_view_has_axes_a_caption_and_traces_or_words_in_their_place(browser, views):
    for view in views:
        browser.choose("view", view["name"])
        told = browser.run(
            "const {data, layout} = document.getElementById('plot'); return {"
            "x: layout.xaxis.title.text, y: layout.yaxis.title.text, count: data.length,"
            "note: layout.annotations[0]?.text,"
            "caption: document.getElementById('caption').textContent,"
            "off: document.getElementById('references').disabled}"
        )
        assert (told["x"], told["y"]) == (view["x"], view["y"])
        assert told["count"] > 1 or told["note"]
        assert " on wikitext2 (" in told["caption"] and told["caption"].count(". ") >= 1
        assert told["off"] == (not view["references"])
        assert view["legend"] in ("always", "wide", "never")
    assert browser.errors() == []
