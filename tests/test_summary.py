"""The table that closes a sweep."""

import math
import runpy
from pathlib import Path

from orchestrator.results.summary import summary_table

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, sweep_rows = _synthetic["make_row"], _synthetic["sweep_rows"]


def line_of(table: str, start: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(start))
    return line.removeprefix(start).split()


def test_table_has_lines_of_methods_and_columns_of_targets():
    rows = [
        make_row(method="dense", regime="dense", sparsity=0.0, seed=None, perplexity=27.66),
        make_row(sparsity=0.5, perplexity=39.3),
        make_row(sparsity=0.7, perplexity=212.0),
        make_row(sparsity=0.5, mask_structure="2:4", perplexity=81.6),
        make_row(method="magnitude", seed=None, sparsity=0.7, perplexity=12345.0),
    ]
    table = summary_table(rows)
    assert "facebook/opt-125m on wikitext2 (sparsegpt): perplexity, dense 27.66" in table
    assert line_of(table, "   ") == ["0.5", "0.7", "2:4"]
    assert line_of(table, "wanda oneshot") == ["39.30", "212.0", "81.60"]
    assert line_of(table, "magnitude oneshot") == ["-", "1.2e+04", "-"]


def test_table_averages_seeds_and_marks_means_that_lack_some():
    rows = [make_row(seed=i, perplexity=40.0 + i) for i in range(3)]
    assert line_of(summary_table(rows), "wanda oneshot") == ["41.0±1.0"]
    rows += [make_row(seed=3, status="failed", error="boom")]
    table = summary_table(rows)
    assert line_of(table, "wanda oneshot") == ["41.0±1.0!"]
    assert "! the mean leaves out seeds" in table


def test_table_shows_what_befell_cells_without_a_perplexity():
    rows = [
        make_row(sparsity=0.1, status="failed"),
        make_row(sparsity=0.2, status="stopped"),
        make_row(sparsity=0.3, perplexity=math.inf),
        make_row(sparsity=0.4, perplexity=math.nan),
    ]
    assert line_of(summary_table(rows), "wanda oneshot") == ["failed", "stopped", "inf", "nan"]
    assert "not run" in summary_table([make_row(status="not_run")])


def test_table_stays_within_79_columns_and_ascii():
    rows = sweep_rows()
    rows += [make_row(model="módel\n\x1b[31m" + "x" * 100, perplexity=3.0)]
    lines = summary_table(rows).splitlines()
    assert max(map(len, lines)) <= 79
    assert set("".join(lines)) - {"±"} <= {chr(code) for code in range(32, 127)}


def test_table_gives_the_control_by_round():
    table = summary_table(sweep_rows(models={"m": 20.0}, sparsities=(0.3, 0.5), seeds=(0,)))
    assert "dense, trained alike: 19.5" in table and "(round 2)" in table


def test_table_never_averages_different_settings():
    rows = [
        make_row(perplexity=40.0, method_settings='{"dampening_frac": 0.01}'),
        make_row(perplexity=60.0, method_settings='{"dampening_frac": 0.1}'),
    ]
    table = summary_table(rows)
    assert line_of(table, "wanda oneshot [1]") == ["40.00"]
    assert line_of(table, "wanda oneshot [2]") == ["60.00"]
    assert '[2] {"dampening_frac": 0.1} c4' in table


def test_lines_with_equal_settings_share_a_number():
    rows = [
        make_row(method=method, perplexity=value, method_settings=f'{{"dampening_frac": {value}}}')
        for method in ("alps", "wanda")
        for value in (0.01, 0.1)
    ]
    table = summary_table(rows).splitlines()
    first, second = (line for line in table if line.startswith("["))
    assert first.startswith('[1] {"dampening_frac": 0.01}')
    assert second.startswith('[2] {"dampening_frac": 0.1}')
    assert sum(line.startswith(("alps oneshot [2]", "wanda oneshot [2]")) for line in table) == 2


def test_table_leaves_out_what_the_grid_no_longer_asks_for():
    assert summary_table([make_row(in_current_grid=False)]) == "no cells yet"
