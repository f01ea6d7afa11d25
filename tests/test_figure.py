import math
import runpy
from pathlib import Path

import pytest

from orchestrator.page.figure import figure
from orchestrator.page.palette import COLORS, color_of
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.published import Published

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, sweep_rows = _synthetic["make_row"], _synthetic["sweep_rows"]
iterative, control = _synthetic["iterative"], _synthetic["control"]


def drawn(rows, *published):
    return figure(curves_from_rows(rows), published)


def traces(fig, kind):
    return [trace for trace in fig.data if trace.meta["kind"] == kind]


def test_no_rows_and_no_finished_rows_can_be_drawn():
    assert curves_from_rows([]) == []
    assert len(figure([]).data) == 0
    fig = figure(
        curves_from_rows(
            [make_row(status="failed"), make_row(method="dense", regime="dense", status="not_run")]
        )
    )
    assert {trace.marker.symbol[0] for trace in traces(fig, "trouble")} == {"x-thin", "line-ew"}
    assert fig.layout.yaxis.type == "linear"


def test_method_decides_the_colour_and_regime_the_dash_and_marker_everywhere():
    fig = drawn(sweep_rows())
    colors, styles = {}, {}
    for trace in traces(fig, "curve"):
        symbol = trace.marker.symbol.removesuffix("-dot")
        colors.setdefault(trace.meta["method"], set()).add((trace.line.color, trace.marker.color))
        styles.setdefault(trace.meta["regime"], set()).add((trace.line.dash, symbol))
    assert {len(seen) for seen in (*colors.values(), *styles.values())} == {1}
    assert len(set.union(*colors.values())) == 4 and len(set.union(*styles.values())) == 3


def test_colours_do_not_depend_on_what_else_is_drawn():
    assert color_of("wanda") == COLORS["wanda"]
    assert color_of("brand-new") == color_of("brand-new") not in COLORS.values()


def test_first_facet_is_visible_and_facets_are_named():
    fig = drawn(sweep_rows())
    assert {trace.meta["facet"] for trace in fig.data if trace.visible} == {0}
    facets = fig.layout.meta["facets"]
    assert [facet["model"] for facet in facets] == ["facebook/opt-1.3b", "facebook/opt-125m"]
    assert facets[0]["evaluation"] == "wikitext2 (sparsegpt, window 2,048, 286,720 tokens)"


def test_scale_starts_logarithmic_where_the_range_asks_for_it():
    near = curves_from_rows([make_row(sparsity=0.3, perplexity=30.0), make_row(perplexity=599.0)])
    far = curves_from_rows([make_row(sparsity=0.3, perplexity=30.0), make_row(perplexity=601.0)])
    assert figure(near).layout.yaxis.type == "linear"
    assert figure(far).layout.yaxis.type == "log"


def test_a_line_breaks_at_a_failed_cell():
    rows = [make_row(sparsity=0.3), make_row(status="failed"), make_row(sparsity=0.7)]
    (line,) = traces(drawn(rows), "curve")
    assert line.y == (40.0, None, 40.0) and not line.connectgaps


def test_marks_of_lost_cells_at_one_sparsity_do_not_cover_each_other():
    rows = [make_row(method=m, status="failed") for m in ("wanda", "sparsegpt", "magnitude")]
    marks = traces(drawn(rows), "trouble")
    assert len({(trace.x[0], trace.y[0]) for trace in marks}) == 3
    assert {trace.yaxis for trace in marks} == {"y2"}


def test_band_is_mean_and_deviation_and_stays_drawable_on_a_log_scale():
    rows = [
        make_row(sparsity=s, seed=i, perplexity=v)
        for s in (0.3, 0.5)
        for i, v in enumerate((2.0, 30.0))
    ]
    (band,) = traces(drawn(rows), "band")
    assert band.x == (0.3, 0.5, 0.5, 0.3)
    assert band.y[:2] == pytest.approx([16 + 14 * math.sqrt(2)] * 2)
    assert band.y[2:] == (1.0, 1.0)


def test_a_point_without_a_line_has_a_bar_for_its_seeds():
    rows = [make_row(seed=i, perplexity=40.0 + i, mask_structure="2:4") for i in range(3)]
    (point,) = traces(drawn(rows), "curve")
    assert point.error_y.array == (1.0,)
    assert point.marker.symbol == "circle-dot" and point.text == ("2:4",)


def test_dense_is_a_grey_line_over_all_sparsities_and_control_is_dotted():
    rows = [iterative(0.3), iterative(0.3, 0.7), control(1, 26.0), control(2, 25.0)]
    rows += [make_row(method="dense", regime="dense", sparsity=0.0, seed=None, perplexity=27.66)]
    fig = drawn(rows)
    (dense,), (tuned,) = traces(fig, "dense"), traces(fig, "control")
    assert dense.x == (0.3, 0.7) and dense.y == (27.66, 27.66) and dense.line.dash is None
    assert tuned.y == (26.0, 25.0) and tuned.line.dash == "dot"
    assert dense.line.color == tuned.line.color == color_of("dense")


def test_curves_that_differ_in_settings_only_are_told_apart_in_the_legend():
    rows = [make_row(method_settings='{"a": 1}'), make_row(method_settings='{"a": 2}')]
    names = {trace.name for trace in drawn(rows).data}
    assert names == {'oneshot · {"a": 1}', 'oneshot · {"a": 2}'}


def test_nothing_from_rows_reaches_plotly_as_markup():
    evil = "<script>alert(1)</script><b>&amp;"
    rows = [
        make_row(
            model=evil, method=evil, regime=evil, mask_structure=structure, sparsity=s, **known
        )
        for structure, s, known in (
            (None, 0.3, {"calibration_text": evil}),
            (None, 0.5, {"status": "failed", "error": evil}),
            (evil, 0.5, {}),
        )
    ]
    fig = drawn(rows)
    told = []
    for trace in fig.data:
        told += [*(trace.hovertext or ()), *(trace.text or ()), trace.name or ""]
        told.append(trace.legendgrouptitle.text)
    assert any("&lt;script&gt;" in text for text in told)
    assert not any("<script" in text or "<b>" in text for text in told)


def test_published_values_are_hollow_and_only_where_they_compare():
    value = Published("facebook/opt-125m", "wanda", None, 0.5, "wikitext2", 39.3, "a paper")
    for known, count in (
        ({}, 1),
        ({"model": "/models/OPT-125M/"}, 1),
        ({"model": "facebook/opt-350m"}, 0),
        ({"eval_text": "ptb"}, 0),
        ({"protocol": "prune-and-tune"}, 0),
        ({"eval_seq_len": 512}, 0),
    ):
        marks = traces(drawn([make_row(**known)], value), "published")
        assert len(marks) == count
    assert not traces(drawn([make_row(method="alps")], value), "published"), "a method not run here"
    (mark,) = traces(drawn([make_row()], value), "published")
    assert mark.marker.symbol == ("circle-open",) and mark.marker.color == color_of("wanda")
    assert "a paper" in mark.hovertext[0]
