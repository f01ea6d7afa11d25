"""Words of the page on bytes and seconds: of one device, and where nothing is won."""

import runpy
from pathlib import Path

import pytest

from orchestrator.page.contents import page_contents
from orchestrator.page.gains import bytes_of, device_among

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, DENSE = _synthetic["make_row"], _synthetic["DENSE"]


def timed(seconds, spread=0.001, device="GPU A", **more):
    """Columns of a measured speed."""
    names = {"decode_seconds": seconds, "decode_spread": spread}
    names |= {"prefill_seconds": 10 * seconds, "prefill_spread": spread, "speed_device": device}
    return names | more


def contents(*rows):
    return page_contents([DENSE | timed(0.100), *rows])


def told(action, *rows):
    return contents(*rows)["boards"][0]["gains"][action]


def point(page):
    return next(p for line in page["lines"] for p in line["points"])


def test_zeros_under_dense_kernels_are_no_gain():
    text = told("decode", make_row(**timed(0.0995)), make_row(method="alps", **timed(0.102)))
    assert text.startswith("On GPU A. No gain with dense kernels: no cell decodes a token faster")
    assert "they multiply zeros like other numbers" in text


def test_a_gain_has_to_be_larger_than_the_spread_of_both():
    assert "No gain" in told("decode", make_row(**timed(0.0985, spread=0.0008)))
    text = told("decode", make_row(**timed(0.080)), make_row(method="alps", **timed(0.101)))
    assert "1 of 2 cells are faster" in text and "fastest: wanda · oneshot at 0.5, 0.80×" in text


def test_sparse_kernels_have_a_sentence_of_their_own():
    sparse = {"sparse_decode_seconds": 0.07, "sparse_decode_spread": 0.001}
    text = told("decode", make_row(mask_structure="2:4", **timed(0.1, **sparse)))
    assert "No gain with dense kernels" in text
    assert "With sparse kernels 1 of 1 cells are faster" in text


def test_nothing_is_said_where_nothing_was_measured():
    page = page_contents([DENSE, make_row()])
    gains = page["boards"][0]["gains"]
    assert gains == {"bytes": "", "decode": "", "prefill": "", "dense": {}}
    assert page["other_devices"] == []


def test_seconds_of_devices_are_never_mixed():
    rows = [make_row(seed=0, **timed(0.2)), make_row(seed=1, **timed(0.4, device="CPU B"))]
    page = contents(*rows)
    assert point(page)["decode_seconds"] == 0.2, "no mean over two devices"
    assert page["other_devices"] == ["CPU B"]
    assert device_among([]) is None


def test_bytes_say_where_a_mask_costs_more_than_it_saves():
    dense = {"dense_bytes": 1000}
    rows = [make_row(sparsity=0.03, sparse_bytes=1010, **dense)]
    rows += [make_row(sparsity=0.5, sparse_bytes=600, **dense)]
    text = told("bytes", *rows)
    assert "Smallest: wanda · oneshot at 0.5, 0.60×" in text and "No gain in 1 of 2 cells" in text


def test_rows_of_earlier_versions_count_their_prunable_matrices():
    old = make_row(num_prunable=800, num_pruned=400, dtype="bfloat16")
    assert bytes_of([old]) == 400 * 2 + 100
    assert bytes_of([old | {"sparse_bytes": 5000}]) == 5000
    assert bytes_of([make_row(num_pruned=None)]) is None


def test_the_table_of_rows_has_no_mean_over_devices(browser, tmp_path):
    from orchestrator.page.document import write_html

    rows = [make_row(seed=0, **timed(0.2)), make_row(seed=1, **timed(0.4, device="CPU B"))]
    rows += [make_row(sparsity=0.7, seed=s, **timed(0.2 + 0.1 * s)) for s in (0, 1)]
    write_html([DENSE, *rows], tmp_path / "page.html")
    browser.open(tmp_path / "page.html", fragment="columns=target,decode_seconds,seeds")
    cells = {row[0]: row[1] for row in browser.table()}
    assert cells["0.5"] == "several devices" and float(cells["0.7"]) == pytest.approx(0.25)


def test_the_page_draws_measured_seconds_beside_the_dense_model(browser, tmp_path):
    from orchestrator.page.document import write_html

    sparse = {"sparse_decode_seconds": 0.07, "sparse_decode_spread": 0.001}
    rows = [make_row(**timed(0.11)), make_row(mask_structure="2:4", **timed(0.1, **sparse))]
    write_html([DENSE | timed(0.1), *rows], tmp_path / "page.html")
    browser.open(tmp_path / "page.html", fragment="view=speed")
    found = browser.shown()
    assert [t["x"] for t in found if t["kind"] == "dense"][-1] == [0.1, 0.1]
    assert sorted(x for t in found if t["kind"] == "curve" for x in t["x"]) == [0.07, 0.1, 0.11]
    assert "No gain with dense kernels" in browser.run("return byId('caption').textContent")
    browser.run("document.querySelector('[data-set=\"field=prefill\"]').click()")
    xs = [x for t in browser.shown() if t["kind"] == "curve" for x in t["x"]]
    assert sorted(xs) == pytest.approx([1.0, 1.1])
    assert browser.errors() == []
