"""In a real browser: every view of the figure keeps what views.js says that a view is."""

import json
import runpy
from pathlib import Path

import pytest

from orchestrator.page.document import write_html

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
VIEWS = "return Object.entries(VIEWS).map(([name, v]) => ({name, label: v.label, x: v.x, y: v.y}))"


@pytest.fixture(scope="module")
def views(browser, tmp_path_factory) -> list[dict]:
    """All views of a page that stays open in the browser."""
    path = tmp_path_factory.mktemp("views") / "curves.html"
    rows = _synthetic["sweep_rows"](sparsities=(0.3, 0.7), seeds=(0,))
    pruned = [{"num_pruned": round(row["sparsity"] * row["num_prunable"])} for row in rows]
    write_html([row | known for row, known in zip(rows, pruned)], path)
    browser.open(path)
    return browser.run(VIEWS)


def test_the_tabs_offer_every_view_by_its_label(browser, views):
    tabs = browser.run(
        "return [...document.querySelectorAll('#tabs button')].map(o => o.innerText)"
    )
    assert tabs == [view["label"] for view in views] and len({*tabs}) == len(tabs) >= 7


def test_every_view_has_axes_a_caption_numbers_and_traces_or_words_in_their_place(browser, views):
    for view in views:
        browser.run(f"document.querySelector('[data-set=\"view={view['name']}\"]').click()")
        told = browser.run(
            "const {data, layout} = byId('plot'); byId('numbers').open = true; drawNumbers();"
            "return {x: layout.xaxis.title.text, y: layout.yaxis.title.text, count: data.length,"
            " note: layout.annotations.at(-1)?.text, caption: byId('caption').textContent,"
            " numbers: byId('numbers-table').rows.length, tab: location.hash}"
        )
        assert (told["x"], told["y"]) == (view["x"], view["y"] or "perplexity to dense (×)")
        assert told["count"] > 1 or told["note"]
        assert told["caption"].count(". ") >= 1 and told["numbers"] > 1
        assert view["name"] == "sparsity" or f"view={view['name']}" in told["tab"]
    assert browser.errors() == []


def test_no_point_beats_the_front_in_size_and_perplexity(browser, views):
    browser.run("set({view: 'size'})")
    found = browser.shown()
    (front,) = [trace for trace in found if trace["kind"] == "front"]
    steps = list(zip(front["x"], front["y"]))
    points = [p for t in found if t["kind"] == "curve" for p in zip(t["x"], t["y"])]
    assert len(steps) > 1 and set(steps) <= set(points)
    for x, y in points:
        assert (x, y) in steps or any(a <= x and b <= y for a, b in steps)


def test_lines_that_share_a_cell_have_one_label(browser, tmp_path):
    make_row, iterative, tokens = (_synthetic[n] for n in ("make_row", "iterative", "TOKENS"))
    rows = [_synthetic["DENSE"], make_row(sparsity=0.3)]
    rows += [iterative(0.3, 0.5, **named("round")), iterative(0.3, 0.5, **named("total"))]
    rows[-1]["num_finetune_tokens"] = tokens
    rows.append(iterative(0.3, **named("round"), also=json.dumps([named("total")])))
    write_html(rows, tmp_path / "curves.html")
    browser.open(tmp_path / "curves.html")
    for target, labels in (
        ("0.3", ["", "iterative · round = iterative · total", "oneshot"]),
        ("0.5", ["iterative · round", "iterative · total"]),
    ):
        browser.run(f"set({{view: 'tokens', at: '{target}'}})")
        drawn = "byId('plot').data.filter(t => t.meta.kind === 'curve')"
        assert sorted(browser.run(f"return {drawn}.map(t => t.text[0].trim())")) == labels
    assert browser.errors() == []


def named(budget: str) -> dict[str, str]:
    """Columns of a budget, where it is an axis."""
    return {"budget": budget, "axis:finetune.budget": budget}
