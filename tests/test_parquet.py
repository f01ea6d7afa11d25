"""Rows in a Parquet file, and the contract that they keep."""

import math
import os
import runpy
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs, parquet

from orchestrator.plan.identity import row_key
from orchestrator.results.parquet import read_rows, to_table, write_parquet
from orchestrator.results.schema import SCHEMA, key_of

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, sweep_rows = _synthetic["make_row"], _synthetic["sweep_rows"]

COLUMNS = """
cell_id model method method_settings mask_structure regime sparsity measured_sparsity
measured_sparsity_worst num_pruned num_prunable seed protocol eval_text eval_seq_len eval_stride
perplexity nll num_eval_tokens word_perplexity byte_perplexity num_eval_words num_eval_bytes
perplexity_before_finetune dense_perplexity num_finetune_tokens
finetune_lr finetune_settings round num_rounds schedule budget path calibration_text
calibration_tokens calibration_seq_len
prune_seconds finetune_seconds evaluate_seconds peak_memory_bytes num_workers device machine dtype
status error stage_id stage_dir config code_version torch_version transformers_version ray_version
finished_at dampening_frac_used sweep_id in_current_grid
""".split()


def test_schema_has_the_agreed_columns_in_order():
    assert SCHEMA.names == COLUMNS


def test_rows_survive_the_file_unchanged(tmp_path):
    rows = [
        make_row(seed=None, path=[]),
        make_row(seed=1, path=[0.3, 0.5], error="größer <b>"),
    ]
    write_parquet(rows, tmp_path / "results.parquet")
    assert read_rows(tmp_path / "results.parquet") == rows


def test_columns_a_row_does_not_name_are_null(tmp_path):
    needed = [field.name for field in SCHEMA if not field.nullable]
    write_parquet([{name: make_row()[name] for name in needed}], tmp_path / "results.parquet")
    (row,) = read_rows(tmp_path / "results.parquet")
    assert all(row[name] is None for name in COLUMNS if name not in needed)


def test_nan_and_infinity_stay_and_are_not_null(tmp_path):
    rows = [make_row(seed=i, perplexity=v) for i, v in enumerate((math.nan, math.inf, None))]
    write_parquet(rows, tmp_path / "results.parquet")
    nan, infinity, missing = (row["perplexity"] for row in read_rows(tmp_path / "results.parquet"))
    assert math.isnan(nan) and infinity == math.inf and missing is None
    assert parquet.read_table(tmp_path / "results.parquet")["perplexity"].null_count == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"_evaluation": "x"}, "outside SCHEMA: _evaluation"),
        ({"model": None}, "lacks model"),
        ({"status": "finished"}, "status 'finished'"),
        ({"seed": 1.5}, "seed of .* is 1.5"),
        ({"num_pruned": True}, "num_pruned of .* is True"),
    ],
)
def test_a_row_that_breaks_the_contract_is_refused(tmp_path, wrong, message):
    with pytest.raises(AssertionError, match=message):
        write_parquet([make_row() | wrong], tmp_path / "results.parquet")
    assert list(tmp_path.iterdir()) == []


def test_no_rows_make_an_empty_file_with_all_columns(tmp_path):
    write_parquet([], tmp_path / "results.parquet")
    table = parquet.read_table(tmp_path / "results.parquet")
    assert table.num_rows == 0 and table.schema.names == COLUMNS


def test_the_order_given_does_not_matter(tmp_path):
    rows = sweep_rows(sparsities=(0.3, 0.5), seeds=(0, 1))
    write_parquet(rows, tmp_path / "a.parquet")
    write_parquet(reversed(rows), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_rows_are_sorted_by_model_method_regime_structure_sparsity_seed():
    rows = [
        make_row(method="wanda", seed=1),
        make_row(method="wanda", seed=0),
        make_row(method="wanda", seed=0, sparsity=0.3),
        make_row(method="wanda", seed=0, mask_structure="2:4"),
        make_row(method="magnitude", seed=None),
    ]
    table = to_table(rows).select(["method", "mask_structure", "sparsity", "seed"])
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("magnitude", None, 0.5, None),
        ("wanda", None, 0.3, 0),
        ("wanda", None, 0.5, 0),
        ("wanda", None, 0.5, 1),
        ("wanda", "2:4", 0.5, 0),
    ]


class NoRename:
    """This machine's files, but the last step of a write fails."""

    def __init__(self):
        self.real = fs.LocalFileSystem()

    def __getattr__(self, name):
        return getattr(self.real, name)

    def move(self, source, target):
        assert parquet.read_table(source).num_rows == 0  # written aside, and whole
        raise OSError("no space left")


def test_the_old_file_stays_whole_when_a_write_fails(tmp_path):
    path = tmp_path / "results.parquet"
    write_parquet([make_row()], path)
    with pytest.raises(OSError, match="no space"):
        write_parquet([], path, NoRename())
    assert len(read_rows(path)) == 1
    assert os.listdir(tmp_path) == ["results.parquet"]


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: real(handle) or synced.append(os.fstat(handle)))
    path = tmp_path / "results.parquet"
    write_parquet([make_row()], path)
    assert [(s.st_ino, s.st_size) for s in synced] == [(path.stat().st_ino, path.stat().st_size)]


def test_it_is_written_to_a_filesystem_that_is_given(tmp_path):
    inside = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    write_parquet([make_row()], "out/deep/results.parquet", inside)
    assert len(read_rows("out/deep/results.parquet", inside)) == 1
    assert (tmp_path / "out/deep/results.parquet").is_file()


def test_a_relative_path_is_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_parquet([make_row()], "results.parquet")
    assert os.listdir(tmp_path) == ["results.parquet"]


def test_keys_differ_by_cell_and_by_evaluation():
    keys = {row_key("a", "b"), row_key("b", "a"), row_key("a", "c"), row_key("ab", "")}
    assert len(keys) == 4
    assert all(key.isalnum() for key in keys)
    one = make_row()
    others = [one | {"eval_text": "ptb"}, one | {"eval_seq_len": 512}, one | {"cell_id": "x"}]
    assert len({key_of(row) for row in [one, *others]}) == 4


def test_counts_are_stored_whole():
    assert SCHEMA.field("num_finetune_tokens").type == pa.int64()
