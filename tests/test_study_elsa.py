"""The study of ELSA: it chooses rates on validation text, and tests what it has chosen alone."""

from __future__ import annotations

import argparse
import csv
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.blocks import blocks_of

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
SHORT = 262_144


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    names = runpy.run_path(str(EXPERIMENTS / "study_elsa.py"))
    return {**names["drawn"].__globals__, **names}


@pytest.fixture
def write(study, tmp_path):
    """Writes a file with a perplexity for each cell of some pieces; returns its place."""

    def call(*given):
        file = tmp_path / "rows.csv"
        with file.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.writer(lines)
            writer.writerow(study["known_rows"].__globals__["COLUMNS"])
            for piece, perplexity in given:
                writer.writerows((*cell, perplexity) for cell in piece.cells())
        return file

    return call


def test_the_setting_with_the_lowest_perplexity_on_validation_text_is_chosen(study, write):
    tried = study["choices"](SHORT, 0.9)
    best = list(tried)[1]
    told = [(piece, 40.0 if setting == best else 50.0) for setting, piece in tried.items()]
    assert study["chosen"](study["known_rows"](write(*told)), SHORT, 0.9) == best
    others = [each for each in told if each[1] > 40.0]
    failed = [(tried[best], float("inf"))]
    assert (
        study["chosen"](study["known_rows"](write(*failed, *others)), SHORT, 0.9) == list(tried)[0]
    )
    assert study["chosen"](study["known_rows"](write()), SHORT, 0.9) is None


def test_the_longest_part_takes_the_choices_of_the_part_before_it(study):
    longest, before = (
        study["choices"](study["PARTS"][part][0], 0.9) for part in ("four", "million")
    )
    assert [piece.cells() for piece in longest.values()] == [
        piece.cells() for piece in before.values()
    ]


def test_a_part_first_chooses_and_then_tests_each_sparsity_with_its_own_setting(study, write):
    settings = list(study["TRIED"][SHORT][0.9, 0.95])
    best = {0.9: settings[0], 0.95: settings[2], 0.5: (1e-3, 0.01), 0.7: (1e-3, 0.01)}
    told = [
        (piece, 40.0 if setting == best[sparsity] else 50.0)
        for sparsity in best
        for setting, piece in study["choices"](SHORT, sparsity).items()
    ]
    pieces = [each for sweep in study["sweeps"]("short", [0], write(*told)) for each in sweep]
    texts = [piece.config.eval.texts for piece in pieces]
    num_choices = sum(map(len, study["TRIED"][SHORT].values()))
    assert set(texts[:num_choices]) == {("embedded:validation",)}
    assert set(texts[num_choices:]) == {("embedded",)}
    joint = {
        (piece.config.joint.lr, piece.config.joint.penalty): piece.config.grid.sparsities
        for piece in pieces[num_choices:]
        if piece.config.grid.methods == ("elsa",)
    }
    assert joint == {settings[0]: (0.9,), settings[2]: (0.95,), (1e-3, 0.01): (0.5, 0.7)}


def test_seeds_run_in_one_sweep_whose_pieces_share_no_cell_and_finetune_comes_last(study, write):
    settings = {0.9: (3e-3, 0.001), 0.95: (3e-3, 0.001), 0.5: (1e-3, 0.01), 0.7: (5e-4, 0.01)}
    told = [(study["choices"](SHORT, s)[setting], 40.0) for s, setting in settings.items()]
    sweeps = list(study["sweeps"]("short", [0, 2], write(*told)))
    for sweep in sweeps:
        cells = [cell for piece in sweep for cell in piece.cells()]
        assert len(cells) == len(set(cells))
    tests = [sweep for sweep in sweeps if sweep[0].config.eval.texts == ("embedded",)]
    assert [{seed for piece in sweep for seed in piece.config.grid.seeds} for sweep in tests] == [
        {0, 2}
    ] * len(tests)
    regimes = [sweep[0].config.grid.regimes for sweep in tests]
    assert regimes == [("joint",), *[("iterative",)] * 2, *[("finetune",)] * 2]
    for sweep in tests[1:]:
        assert all(len(piece.cells()) == 1 for piece in sweep), "a cell can run alone"


def test_rows_of_the_training_before_have_a_line_of_their_own_and_give_way_in_the_figure(study):
    cell = (str(SHORT), "embedded", "0", "0.9", "alps", "iterative")
    known = {(*cell, "adaptive"): 41.5, (*cell, "adaptive 2"): 38.0}
    known[*cell, study["ADAPTIVE"]] = 36.0
    lines = study["by_line"](known)
    assert {name: line for (_, name), line in lines.items()} == {
        "alps iterative": {0.9: [36.0]},
        "alps iterative, 128 steps": {0.9: [38.0]},
        "alps iterative, adaptive 1": {0.9: [41.5]},
    }
    assert "," not in "".join(re.findall(">(alps[^<]*)<", study["drawn"](lines)))
    alone = {key: line for key, line in lines.items() if key[1].endswith("adaptive 1")}
    assert "alps iterative, adaptive 1" in study["drawn"](alone)


def test_a_line_has_one_color_in_all_panels(study):
    alone, both = {"b": {0.5: 2.0}}, {"a": {0.5: 1.0}, "b": {0.5: 2.0}}
    drawn = study["figure"]([study["Panel"]("one", lines) for lines in (alone, both)])
    colors = re.findall(r'fill="([^"]+)">(a|b)<', drawn)
    assert sorted(name for _, name in colors) == ["a", "b", "b"]
    assert len(set(colors)) == 2 == len({color for color, _ in colors})


def test_rows_of_other_settings_and_of_validation_text_are_not_drawn(study, write):
    choices = study["choices"](SHORT, 0.9)
    best, other, *_ = choices
    told = [(piece, 40.0 if setting == best else 50.0) for setting, piece in choices.items()]
    tests = [
        (study["joint_piece"](SHORT, "embedded", 0, setting, 0.9), perplexity)
        for setting, perplexity in ((best, 41.0), (other, 51.0))
    ]
    assert study["by_line"](study["known_rows"](write(*told, *tests))) == {
        (SHORT, "elsa joint"): {0.9: [41.0]}
    }
    assert study["by_line"](study["known_rows"](write(*tests))) == {}, "nothing is chosen"


def test_rows_of_an_earlier_sweep_of_the_store_are_not_its_own(study, monkeypatch, tmp_path):
    """Both may have the same columns in the file and differ in rate and penalty alone."""
    piece = study["joint_piece"](SHORT, "embedded", 0, (3e-3, 0.001), 0.9)
    row = {"status": "done", "eval_text": "embedded", "seed": 0, "sparsity": 0.9, "method": "elsa"}
    row |= {"regime": "joint", "num_finetune_tokens": SHORT}
    rows = [
        row | {"in_current_grid": True, "perplexity": 40.0},
        row | {"in_current_grid": False, "perplexity": 50.0},
    ]
    monkeypatch.setitem(study["joint_piece"].__globals__, "read_rows", lambda path: rows)
    (cell,) = piece.cells()
    assert list(piece.rows(str(tmp_path))) == [], "the sweep has not begun"
    (tmp_path / "results.parquet").touch()
    assert list(piece.rows(str(tmp_path))) == [(*cell, "40.0000")]


@pytest.mark.parametrize("begins", [True, False])
def test_a_sweep_that_never_began_adds_no_row_of_the_one_before(
    study, monkeypatch, tmp_path, begins
):
    piece = study["layer_piece"]("iterative", SHORT, "alps", 0.9, 0)
    table = tmp_path / "results.parquet"
    table.touch()
    row = {"status": "done", "eval_text": "embedded", "seed": 0, "sparsity": 0.9, "method": "alps"}
    row |= {"regime": "iterative", "num_finetune_tokens": SHORT}
    row |= {"in_current_grid": True, "perplexity": 40.0}

    def run(config) -> int:
        if begins:
            os.utime(table, ns=(0, 0))
        raise ValueError("--models m: is not there")

    names = study["study"].__globals__
    monkeypatch.setitem(names, "read_rows", lambda path: [row])
    monkeypatch.setitem(names, "run", run)
    monkeypatch.setitem(names, "sweeps", lambda *given: iter([[piece]]))
    rows = tmp_path / "rows.csv"
    flags = {"parts": ["short"], "seeds": [0], "minutes": 1.0, "out_dir": str(tmp_path)}
    with pytest.raises(ValueError, match="not there"):
        study["study"](argparse.Namespace(**flags, rows=rows, figure=tmp_path / "f.svg"))
    assert list(study["known_rows"](rows).values()) == [40.0] * begins


def test_missing_cells_alone_are_run(study, monkeypatch, tmp_path, write):
    known, missing = (study["layer_piece"]("iterative", SHORT, "alps", s, 0) for s in (0.9, 0.95))
    ran = []
    names = study["study"].__globals__
    monkeypatch.setitem(names, "run", lambda config: ran.append(config) or 0)
    monkeypatch.setitem(names, "sweeps", lambda *given: iter([[known, missing], [known]]))
    flags = {"parts": ["short"], "seeds": [0], "minutes": 1.0, "out_dir": str(tmp_path)}
    flags |= {"rows": write((known, 40.0)), "figure": tmp_path / "f.svg"}
    assert study["study"](argparse.Namespace(**flags)) == 0
    [config] = ran
    assert (config.grid.sparsities, blocks_of(config)) == ((0.95,), (config,))


def test_a_folder_that_holds_something_else_is_refused_in_one_line(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    places = [("--out-dir", "out"), ("--rows", "rows.csv"), ("--figure", "figure.svg")]
    done = subprocess.run(
        [sys.executable, str(EXPERIMENTS / "study_elsa.py"), *(w for pair in places for w in pair)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(EXPERIMENTS.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: --out-dir ") and len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]
