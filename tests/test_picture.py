"""The static picture of a board, on the page and as a file for a paper."""

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

from orchestrator.page.palette import COLORS, color_of
from orchestrator.page.picture import LABEL, lone_picture, picture
from orchestrator.page.scale import MAX_TICKS, scale_of
from orchestrator.results.board import boards_of
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.published import Published, published_beside

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, sweep_rows, seeds = (_synthetic[n] for n in ("make_row", "sweep_rows", "seeds"))
iterative, control, DENSE = (_synthetic[n] for n in ("iterative", "control", "DENSE"))
SVG = "{http://www.w3.org/2000/svg}"


def drawn(rows, *published, full=False):
    (board,) = boards_of(curves_from_rows(rows))
    values = published_beside(board, published)
    return ElementTree.fromstring(lone_picture(board, values, full))


def lines(svg):
    return [each for each in svg.iter(f"{SVG}polyline") if each.get("class") == "line"]


def texts(svg):
    return [each.text for each in svg.iter(f"{SVG}text")]


def places(element):
    return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]


def test_nothing_is_drawn_before_the_dense_model_and_a_pruned_cell_are_there():
    assert boards_of(curves_from_rows([])) == []
    for rows in ([make_row()], [DENSE]):
        (board,) = boards_of(curves_from_rows(rows))
        assert lone_picture(board, [], full=False) == picture(board) == ""


def test_method_decides_the_colour_and_regime_the_dash_everywhere():
    rows = [row for row in sweep_rows() if row["model"] == "facebook/opt-125m"]
    (board,) = boards_of(curves_from_rows(rows))
    svg = ElementTree.fromstring(lone_picture(board, [], full=True))
    looks = {(each.get("stroke"), each.get("stroke-dasharray")) for each in lines(svg)}
    pruned = {look for look in looks if look[0] != color_of("dense")}
    assert len(pruned) == 4 * 3 and len({color for color, _ in pruned}) == 4


def test_colours_do_not_depend_on_what_else_is_drawn():
    assert color_of("wanda") == COLORS["wanda"]
    assert color_of("brand-new") == color_of("brand-new") not in COLORS.values()


@pytest.mark.parametrize("highest", [1.02, 2.0, 30.0, 2e5])
def test_all_ticks_have_a_label_and_there_are_never_too_many(highest):
    (board,) = boards_of(curves_from_rows([DENSE, make_row(perplexity=27.66 * highest)]))
    for full in (False, True):
        ticks = scale_of(board, full, 0, 300).ticks()
        assert 2 <= len(ticks) <= MAX_TICKS and ticks == sorted(ticks)


def test_a_line_that_rises_above_the_focus_leaves_it_at_the_top_and_the_full_picture_has_it():
    rows = [DENSE, *(make_row(sparsity=s, perplexity=p) for s, p in ((0.3, 30.0), (0.9, 900.0)))]
    (focused,), (whole,) = lines(drawn(rows)), lines(drawn(rows, full=True))
    assert places(focused)[-1][0] < places(whole)[-1][0]
    assert len([c for c in drawn(rows).iter(f"{SVG}circle")]) == 1
    assert len([c for c in drawn(rows, full=True).iter(f"{SVG}circle")]) == 2


def test_a_line_breaks_at_a_failed_cell_which_has_a_mark_in_the_lane():
    known = {0.3: {}, 0.4: {}, 0.5: {"status": "failed"}, 0.6: {}, 0.7: {}}
    svg = drawn([DENSE, *(make_row(sparsity=s, **more) for s, more in known.items())])
    assert len(lines(svg)) == 2
    assert "×" in texts(svg) and "no value" in texts(svg)
    assert "no value" not in texts(drawn([DENSE, make_row()]))


def test_marks_of_lost_cells_at_one_sparsity_do_not_cover_each_other():
    methods = ("wanda", "sparsegpt", "magnitude")
    svg = drawn([DENSE, *(make_row(method=m, status="failed") for m in methods)])
    found = [(e.get("x"), e.get("y")) for e in svg.iter(f"{SVG}text") if e.text == "×"]
    assert len({*found}) == 3


def test_band_is_mean_and_deviation_and_stays_inside_the_picture():
    rows = [DENSE, *seeds("wanda", 28.0, 90.0, sparsity=0.3), *seeds("wanda", 28.0, 90.0)]
    (inner,) = drawn(rows).iterfind(f"{SVG}svg")
    (band,) = inner.iter(f"{SVG}polygon")
    heights = [y for _, y in places(band)]
    assert len(heights) == 4 and len({*heights}) == 2
    assert inner.get("viewBox") == " ".join(inner.get(n) for n in ("x", "y", "width", "height")), (
        "what lies outside of an inner picture is cut"
    )


def test_a_structure_is_a_mark_in_a_column_of_its_own_with_a_bar_for_its_seeds():
    rows = [DENSE, make_row(), *seeds("wanda", 40.0, 42.0, mask_structure="2:4")]
    svg = drawn(rows)
    assert [t for t in texts(svg) if t in ("0.5", "2:4")] == ["0.5", "2:4"]
    assert [e.get("class") for e in svg.iter(f"{SVG}polyline")].count("bar") == 1
    assert len({c.get("cx") for c in svg.iter(f"{SVG}circle")}) == 2


def test_a_mean_that_lacks_a_seed_is_hollow():
    svg = drawn([DENSE, *seeds("wanda", 40.0, "failed"), *seeds("alps", 39.0, 38.0)])
    fills = {c.get("stroke"): c.get("fill") for c in svg.iter(f"{SVG}circle")}
    assert fills == {COLORS["wanda"]: "#ffffff", COLORS["alps"]: COLORS["alps"]}


def test_the_trained_dense_model_is_dotted_and_grey():
    rows = [DENSE, iterative(0.3), iterative(0.3, 0.7), control(1, 26.0), control(2, 25.0)]
    looks = {e.get("stroke"): e.get("stroke-dasharray") for e in lines(drawn(rows))}
    assert looks[color_of("dense")] == "2 4"


def test_names_never_cover_each_other_and_stay_in_the_picture():
    rows = [DENSE]
    for number in range(40):
        known = {"method_settings": f'{{"a_setting_with_a_long_name": {number}}}'}
        rows += [make_row(sparsity=s, perplexity=30.0 + s, **known) for s in (0.3, 0.5)]
    svg = drawn(rows)
    names = [e for e in svg.iter(f"{SVG}text") if (e.text or "").startswith("wanda")]
    heights = sorted(float(e.get("y")) for e in names)
    assert len(heights) == 40 and len({e.text for e in names}) == 40
    gaps = [b - a for a, b in zip(heights, heights[1:])]
    assert min(gaps) >= LABEL - 0.2 and heights[-1] < float(svg.get("height"))


def test_nothing_from_rows_is_markup():
    evil = "<script>alert(1)</script><b>&amp;\"'"
    known = {"model": evil, "method": evil, "regime": evil, "eval_text": evil}
    dense = DENSE | {"model": evil, "eval_text": evil}
    (board,) = boards_of(curves_from_rows([dense, make_row(**known)]))
    for text in (lone_picture(board, [], full=False), picture(board)):
        assert "<script" not in text and "<b>" not in text and "&lt;script&gt;" in text
    assert evil in " ".join(
        filter(None, texts(ElementTree.fromstring(lone_picture(board, [], True))))
    )


def test_published_values_are_hollow_and_only_where_they_compare():
    value = Published("facebook/opt-125m", "wanda", None, 0.5, "wikitext2", 39.3, "a paper")
    for known, count in (
        ({}, 1),
        ({"model": "/models/OPT-125M/"}, 1),
        ({"model": "facebook/opt-350m"}, 0),
        ({"eval_text": "ptb"}, 0),
        ({"protocol": "prune-and-tune"}, 0),
        ({"eval_seq_len": 512}, 0),
        ({"method": "alps"}, 0),
    ):
        rows = [DENSE | {k: v for k, v in known.items() if k != "method"}, make_row(**known)]
        hollow = [c for c in drawn(rows, value).iter(f"{SVG}circle") if c.get("fill") == "none"]
        assert len(hollow) == count, known
    text = ElementTree.tostring(drawn([DENSE, make_row()], value), encoding="unicode")
    assert "a paper" in text and re.search(r'stroke="#0072B2"', text)
