"""A board as a Plotly figure: its traces, its errors over seeds, and the exported file."""

import runpy
from pathlib import Path

import plotly.io
import pytest

from orchestrator.page.notebook import figure_of
from orchestrator.page.palette import DASHES, color_of
from orchestrator.publish.export import export
from orchestrator.results.board import boards_of
from orchestrator.results.curves import curves_from_rows

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, seeds, DENSE = (_synthetic[n] for n in ("make_row", "seeds", "DENSE"))
ROWS = [
    DENSE,
    *seeds("wanda", 39.0, 39.3, 39.6, sparsity=0.5),
    *seeds("wanda", 100.0, 110.0, 120.0, sparsity=0.7),
    *seeds("wanda", 60.0, 61.0, 62.0, sparsity=0.5, mask_structure="2:4"),
]


def drawn(rows):
    (board,) = boards_of(curves_from_rows(rows))
    return figure_of(board)


def test_a_line_has_its_means_its_deviations_and_the_look_of_the_page():
    line, structured = drawn(ROWS).data
    assert (line.x, line.y) == ((0.5, 0.7), pytest.approx((39.3, 110.0)))
    assert line.error_y.array == pytest.approx((0.3, 10.0))
    assert (line.line.color, line.line.dash) == (color_of("wanda"), DASHES["oneshot"])
    assert (structured.mode, structured.text, structured.y) == ("markers", ("2:4",), (61.0,))


def test_the_dense_model_is_a_level_and_names_are_no_markup():
    figure = drawn([{**row, "model": "<b>x</b>"} for row in ROWS])
    assert [shape.y0 for shape in figure.layout.shapes] == [DENSE["perplexity"]]
    assert "&lt;b>x" in figure.layout.title.text and figure.layout.yaxis.type == "log"


def test_a_cell_without_a_value_is_no_point():
    failed = make_row(method="wanda", sparsity=0.8, status="failed", perplexity=None, error="x")
    assert [trace.x for trace in drawn([*ROWS[:4], failed]).data] == [(0.5,)]


def test_an_export_has_a_figure_that_plotly_reads(tmp_path):
    export(ROWS, tmp_path, ("svg",))
    (file,) = tmp_path.glob("*.plotly.json")
    assert len(plotly.io.read_json(file).data) == 2
