"""Tables and figures for papers."""

import csv
import io
import math
import re
import runpy
import shutil
import struct
from pathlib import Path

import pytest

from orchestrator.publish import export as export_module
from orchestrator.publish.export import export, names_of, require_figures
from orchestrator.publish.tables import tables_from_rows
from orchestrator.publish.typesetting import cells_csv, latex, markdown, rows_csv
from orchestrator.results.curves import Evaluation
from orchestrator.results.schema import SCHEMA

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, sweep_rows = _synthetic["make_row"], _synthetic["sweep_rows"]
DENSE, seeds = _synthetic["DENSE"], _synthetic["seeds"]


def small():
    """Two methods at 0.5 and 0.7, three seeds."""
    return [
        DENSE,
        *seeds("wanda", 39.0, 39.3, 39.6, sparsity=0.5),
        *seeds("wanda", 100.0, 120.0, 110.0, sparsity=0.7),
        *seeds("sparsegpt", 36.8, 36.9, 37.0, sparsity=0.5),
        *seeds("sparsegpt", 90.0, math.inf, 91.0, sparsity=0.7),
    ]


def test_cells_are_mean_and_sample_deviation_with_the_best_in_bold():
    (table,) = tables_from_rows(small())
    lines = markdown(table).splitlines()
    assert lines[0] == "|  | 0.5 | 0.7 |"
    assert lines[2] == "| sparsegpt oneshot | **36.9±0.1** | 90.5±0.7! |"
    assert lines[3] == "| wanda oneshot | 39.3±0.3 | **110.0±10.0** |"


def test_a_mean_that_leaves_out_a_seed_is_marked_said_and_never_the_best():
    (table,) = tables_from_rows(small())
    assert "! leaves out seeds that failed or are not finite" in table.caption
    (whole,) = tables_from_rows(seeds("wanda", 39.0, 40.0, sparsity=0.5))
    assert "!" not in markdown(whole)


def test_the_caption_says_protocol_windows_tokens_calibration_and_seeds():
    (table,) = tables_from_rows(small())
    assert table.caption.startswith(
        "Perplexity of facebook/opt-125m on wikitext2 (sparsegpt protocol, windows of 2,048 tokens,"
        " 286,720 tokens evaluated); dense 27.66; calibration: c4, 262,144 tokens; "
        "mean ± standard deviation over seeds 0, 1, 2; lower is better, the best of each column in"
    )


def test_training_tokens_are_in_the_caption_by_regime():
    rows = seeds("wanda", 39.0, sparsity=0.5, regime="finetune", num_finetune_tokens=1024)
    (table,) = tables_from_rows(rows)
    assert "; finetune: 1,024 training tokens; one seed (0); " in table.caption


def test_latex_has_booktabs_bold_and_plus_minus():
    (table,) = tables_from_rows(small())
    text = latex(table)
    assert r"sparsegpt oneshot & $\mathbf{36.9 \pm 0.1}$ & $90.5 \pm 0.7!$ \\" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert r"\begin{tabular}{lrr}" in text


def test_large_values_are_powers_of_ten_in_latex():
    (table,) = tables_from_rows(seeds("wanda", 12345.0, sparsity=0.9))
    assert r"$\mathbf{1.2 \cdot 10^{4}}$" in latex(table)


def test_names_are_no_commands_and_no_markup():
    evil = r"a_b & c%\input{x} <script>|**$^~"
    (table,) = tables_from_rows(seeds("wanda", 39.0, sparsity=0.5, model=evil))
    tex, md = latex(table), markdown(table)
    assert r"\input" not in tex and r"\textbackslash{}input\{x\}" in tex
    assert "<script>" not in md and r"\<script\>\|\*\*" in md


def test_failed_cells_say_so_and_cells_never_asked_for_are_dashes():
    rows = [make_row(status="failed"), *seeds("sparsegpt", 90.0, sparsity=0.7)]
    (table,) = tables_from_rows(rows)
    lines = markdown(table).splitlines()
    assert lines[2:4] == ["| sparsegpt oneshot | – | **90.00** |", "| wanda oneshot | failed | – |"]


def test_csv_has_full_numbers_and_every_column():
    cells = list(csv.DictReader(io.StringIO(cells_csv(tables_from_rows(small())))))
    best = {(c["method"], c["target"]) for c in cells if c["best"] == "True"}
    assert best == {("sparsegpt", "0.5"), ("wanda", "0.7")}
    assert float(cells[0]["mean"]) == pytest.approx(36.9) and cells[0]["seeds"] == "3"
    rows = list(csv.DictReader(io.StringIO(rows_csv(small()))))
    assert list(rows[0]) == SCHEMA.names and len(rows) == 13
    scored = [small()[0] | {"task:tiny:acc": 0.4}, *small()[1:]]
    with_tasks = list(csv.DictReader(io.StringIO(rows_csv(scored))))
    assert list(with_tasks[0]) == [*SCHEMA.names, "task:tiny:acc"]
    assert sorted(row["task:tiny:acc"] for row in with_tasks) == [""] * 12 + ["0.4"]


def test_a_table_for_each_model_and_evaluation():
    assert len(tables_from_rows(sweep_rows())) == 2


def test_tables_and_svg_are_written_where_no_browser_is(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(export_module, "browser", lambda: None)
    written = export(small(), tmp_path / "export", ("svg", "pdf"))
    assert {path.name for path in written} == {
        *("rows.csv", "perplexity.csv", "tables.md", "tables.tex"),
        *("facebook-opt-125m-wikitext2.svg", "facebook-opt-125m-wikitext2-full.svg"),
        "facebook-opt-125m-wikitext2.plotly.json",
    }
    assert "no PDF: no Chromium" in caplog.text
    require_figures(("svg",))
    with pytest.raises(ValueError, match="--figures pdf: .*Chromium"):
        require_figures(("pdf",))


def test_only_the_formats_asked_for_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "browser", lambda: None)
    assert len(export(small(), tmp_path, ("pdf",))) == 5


def test_a_full_picture_is_written_only_where_a_value_lies_above_the_focus(tmp_path):
    near = [row for row in small() if row["sparsity"] != 0.7]
    assert not [path for path in export(near, tmp_path, ("svg",)) if "-full" in path.name]


def test_figures_are_drawn_in_each_format(tmp_path):
    if export_module.browser() is None:
        pytest.skip(export_module.NO_BROWSER)
    near = [row for row in small() if row["sparsity"] != 0.7]
    written = export(near, tmp_path, ("svg", "pdf", "png"))
    files = {path.suffix: path.read_bytes() for path in written if "facebook" in path.name}
    assert files[".pdf"].startswith(b"%PDF") and files[".pdf"].count(b"/Type /Page\n") <= 1
    assert files[".png"].startswith(b"\x89PNG")
    svg = files[".svg"].decode()
    width, height = (int(n) for n in re.findall(r' (?:width|height)="(\d+)"', svg)[:2])
    wide, high = struct.unpack(">II", files[".png"][16:24])
    assert (wide, high) == (3 * width, 3 * height)
    assert "sparsegpt" in svg and "perplexity" in svg and "<image" not in svg


def test_a_browser_that_fails_costs_one_line_and_no_table(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("BROWSER_PATH", shutil.which("false"))
    written = export(small(), tmp_path, ("svg", "png"))
    assert len(written) == 7 and all(path.exists() for path in written)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno > 20]
    assert line.startswith("no PNG: ") and "could not draw them (" in line and "\n" not in line


def test_figure_names_are_plain_and_different():
    def evaluation(text):
        return Evaluation("sparsegpt", text, 2048, 2048, 1000)

    facets = [("../../a b", evaluation("x")), ("a-b", evaluation("x")), ("é", evaluation("/"))]
    names = list(names_of(facets).values())
    assert len(set(names)) == 3
    assert all(name and not set(name) & set("/\\ ") and not name.startswith(".") for name in names)


def test_browsers_are_looked_for_on_the_path(monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/somewhere/chrome")
    assert export_module.browser() == "/somewhere/chrome"
    monkeypatch.delenv("BROWSER_PATH")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if "google" in name else None)
    assert export_module.browser() == "/bin/google-chrome"
