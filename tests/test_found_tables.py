"""The answers of a search as files for papers: CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import math

import pytest
from test_found import COARSE, DENSE, board_of, perplexity, searched_rows

from orchestrator.publish.export import export
from orchestrator.publish.found_tables import found_files
from orchestrator.results.found import HEAD, KEY

WITHIN = (1.1, 1.5)


def lost_above(rows, sparsity):
    """Return rows in which all cells above a sparsity have failed."""
    failed = {"status": "failed", "perplexity": None, "error": "no inverse"}
    return [row | failed if row["sparsity"] > sparsity else row for row in rows]


def crossing(ratio, factor=1.0):
    """Return the sparsity at which the made-up curve reaches a ratio, by halving."""
    low, high = 0.0, 0.99
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if perplexity(middle, factor) <= ratio * DENSE else (low, middle)
    return low


def csv_of(*rows):
    """Return the lines of the CSV file of some boards."""
    files = found_files([board_of(each) for each in rows])
    return list(csv.DictReader(io.StringIO(files["search.csv"])))


def text_of(name, *rows):
    """Return the Markdown or LaTeX file of some boards."""
    return found_files([board_of(each) for each in rows])[f"search.{name}"]


def test_the_csv_has_each_answer_with_its_numbers_in_full():
    rows = searched_rows(WITHIN, method="wanda", seeds=(0, 1, 2))
    found = csv_of(rows)
    assert [(c["method"], c["regime"], c["within"]) for c in found] == [
        ("wanda", "iterative", "1.1"),
        ("wanda", "iterative", "1.5"),
    ]
    for cell in found:
        value, low, high = (float(cell[name]) for name in ("sparsity", "low", "high"))
        # Seeds lie a factor of up to 1.04 above the curve, so that it crosses a little earlier.
        ends = [crossing(float(cell["within"]) / factor) for factor in (1.04, 1.0)]
        assert ends[0] - 0.005 <= value <= ends[1] + 0.005
        assert low <= value <= high <= low + 0.01 + 1e-9
        assert float(cell["half_width"]) == pytest.approx(max(value - low, high - value))
        assert cell["seeds"] == "3" and float(cell["seeds_std"]) > 0
        searched = {*map(float, cell["searched"].split())}
        assert searched and searched < {row["sparsity"] for row in rows} - {*COARSE}


def test_markdown_and_latex_have_the_same_answers_in_their_own_signs():
    rows = searched_rows(WITHIN, method="wanda")
    first, second = (cell["answer"] for cell in csv_of(rows))
    assert abs(float(first.split(" ± ")[0]) - crossing(1.1)) <= 0.005
    lines = text_of("md", rows).splitlines()
    assert lines[:3] == [
        f"| {HEAD} | 1.1× | 1.5× |",
        "| --- | ---: | ---: |",
        f"| wanda · iterative | {first} | {second} |",
    ]
    assert KEY in lines[-1] and "facebook/opt-125m on wikitext2" in lines[-1]
    tex = text_of("tex", rows)
    assert rf"{HEAD} & 1.1$\times$ & 1.5$\times$ \\" in tex and r"\begin{tabular}{lrr}" in tex
    cells = " & ".join(answer.replace("±", r"$\pm$") for answer in (first, second))
    assert rf"wanda $\cdot$ iterative & {cells} \\" in tex
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == 1 and tex.isascii()


def test_a_curve_that_never_crosses_says_at_least():
    rows = searched_rows(shape=lambda s: 1.01 * DENSE)
    (cell,) = csv_of(rows)
    assert (cell["answer"], cell["low"]) == ("≥ 0.9", "0.9")
    assert [cell[name] for name in ("sparsity", "half_width", "high", "searched")] == [""] * 4
    assert "| ≥ 0.9 |" in text_of("md", rows)
    assert "the curve does not cross up to 0.9." in text_of("md", rows)
    assert r"$\ge$ 0.9" in text_of("tex", rows)


def test_a_curve_that_is_above_everywhere_says_below():
    rows = searched_rows(shape=lambda s: 9 * DENSE)
    (cell,) = csv_of(rows)
    assert cell["answer"] == f"< {float(cell['high']):g}" and float(cell["high"]) <= 0.01
    assert r"\< 0.0" in text_of("md", rows) and r"\textless{} 0.0" in text_of("tex", rows)


@pytest.mark.parametrize("failed", [True, False])
def test_failed_and_infinite_cells_count_as_above_and_the_caption_says_so(failed):
    rows = searched_rows(shape=lambda s: 1.01 * DENSE if s < 0.612 else math.inf)
    rows = lost_above(rows, 0.612) if failed else rows
    (cell,) = csv_of(rows)
    assert float(cell["low"]) <= 0.612 <= float(cell["high"]) <= float(cell["low"]) + 0.01 + 1e-9
    said = f"within 1.5×: {float(cell['high']):g} counts as above it, but failed or is not finite."
    assert said in text_of("md", rows)
    assert said.replace("×", r"$\times$") in text_of("tex", rows)


def test_an_answer_that_is_not_known_has_no_numbers():
    rows = [row for row in searched_rows() if not row.get("searched")]
    (cell,) = csv_of(rows)
    assert (cell["answer"], cell["sparsity"], cell["half_width"]) == ("not known", "", "")
    assert "| not known |" in text_of("md", rows) and "& not known" in text_of("tex", rows)


def test_each_model_has_a_table_and_names_are_no_markup():
    evil = r"a_b & c%\input{x} <script>|"
    both = searched_rows(), [row | {"model": evil} for row in searched_rows()]
    tex, md = text_of("tex", *both), text_of("md", *both)
    assert [cell["model"] for cell in csv_of(*both)] == ["facebook/opt-125m", evil]
    assert tex.count(r"\begin{table}") == 2 and md.count("| --- |") == 2
    assert r"\input" not in tex and "<script>" not in md


def test_an_export_writes_them_only_where_something_was_searched(tmp_path):
    names = {"search.csv", "search.md", "search.tex"}
    rows = searched_rows()
    written = {path.name for path in export(rows, tmp_path / "one", ("svg",))}
    assert names < written
    plain = [row | {"within": None} for row in rows]
    assert not names & {path.name for path in export(plain, tmp_path / "other", ("svg",))}
