"""Columns of a row: `SCHEMA` is the whole contract, from the store's JSON files to Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from orchestrator.config import REGIMES
from orchestrator.plan.identity import row_key

Row = dict[str, Any]

_TEXT, _REAL, _COUNT = pa.string(), pa.float64(), pa.int64()
_REQUIRED = frozenset(
    "cell_id model method regime sparsity protocol eval_text status in_current_grid".split()
)
_COLUMNS: dict[str, pa.DataType] = {
    "cell_id": _TEXT,
    "model": _TEXT,
    "method": _TEXT,
    "method_settings": _TEXT,  # JSON
    "mask_structure": _TEXT,
    "regime": _TEXT,
    "sparsity": _REAL,
    "measured_sparsity": _REAL,
    "measured_sparsity_worst": _REAL,  # of the matrix farthest from the target
    "num_pruned": _COUNT,
    "num_prunable": _COUNT,
    "seed": _COUNT,
    "protocol": _TEXT,
    "eval_text": _TEXT,
    "eval_seq_len": _COUNT,
    "eval_stride": _COUNT,
    "perplexity": _REAL,
    "nll": _REAL,
    "num_eval_tokens": _COUNT,
    "word_perplexity": _REAL,
    "byte_perplexity": _REAL,
    "num_eval_words": _COUNT,
    "num_eval_bytes": _COUNT,
    "perplexity_before_finetune": _REAL,
    "dense_perplexity": _REAL,
    "num_finetune_tokens": _COUNT,  # of the cell's whole history
    "finetune_lr": _REAL,  # of the last round; of several, the one that was chosen
    "finetune_settings": _TEXT,  # JSON of what differs from plain training; null where nothing
    "round": _COUNT,
    "num_rounds": _COUNT,
    "schedule": _TEXT,
    "budget": _TEXT,
    "path": pa.list_(_REAL),  # sparsities of the branch up to this cell
    "calibration_text": _TEXT,
    "calibration_tokens": _COUNT,
    "calibration_seq_len": _COUNT,
    "prune_seconds": _REAL,
    "finetune_seconds": _REAL,
    "evaluate_seconds": _REAL,
    "peak_memory_bytes": _COUNT,
    "num_workers": _COUNT,
    "device": _TEXT,
    "machine": _TEXT,  # that of the evaluation
    "dtype": _TEXT,
    "status": _TEXT,  # one of STATUSES
    "error": _TEXT,
    "stage_id": _TEXT,
    "stage_dir": _TEXT,
    "config": _TEXT,  # JSON
    "code_version": _TEXT,
    "torch_version": _TEXT,
    "transformers_version": _TEXT,
    "ray_version": _TEXT,
    "finished_at": _TEXT,  # ISO 8601, UTC: what the JSON rows hold, and it sorts
    "dampening_frac_used": _REAL,
    "sweep_id": _TEXT,
    "in_current_grid": pa.bool_(),
}
FURTHER: dict[str, pa.DataType] = {
    "environment": _TEXT,
    "lm_eval_version": _TEXT,
    "window_start": _TEXT,
    "num_tried_tokens": _COUNT,
    "finetune_rounds": _TEXT,
    "within": pa.list_(_REAL),
    "searched": pa.bool_(),
    "also": _TEXT,
}
"""Columns that a table has if a row has them. `environment`: JSON of all that the process of the
evaluation recorded, such as the hash of its sources, threads, TF32 and the attention's
implementation. `lm_eval_version`: version of the harness behind the columns of tasks.
`window_start`: `bos` where every window of calibration, training and evaluation begins with it.
`num_tried_tokens`: training tokens of all learning rates together, where a cell tried several.
`finetune_rounds`: JSON of what adaptive training measured and chose, a list with each round.
`within`: ratios to dense that the current sweep searches for, in all rows of its grid. `searched`:
true in rows of cells that only its search has asked for. `also`: JSON list of columns, those of
each further line of the current grid that has the cell; the row's own are of the first."""
BOUGHT: dict[str, pa.DataType] = {"dense_bytes": _COUNT, "sparse_bytes": _COUNT}
BOUGHT |= {
    f"{kernels}{what}_{value}": _REAL
    for kernels in ("", "sparse_")
    for what in ("prefill", "decode")
    for value in ("seconds", "spread")
}
BOUGHT |= {"speed_device": _TEXT, "speed_note": _TEXT}
"""Columns of what pruning buys, if a row has them: bytes of the whole model, dense and in a sparse
form; medians and quartile distances of measured seconds, with dense kernels and with sparse ones;
the device that they are of, and why some are absent."""
FURTHER |= BOUGHT
_KNOWN = frozenset([*_COLUMNS, *FURTHER])
_COUNTS = tuple(name for name, kind in _COLUMNS.items() if kind == _COUNT)
SCHEMA = pa.schema([pa.field(name, kind, name not in _REQUIRED) for name, kind in _COLUMNS.items()])
"""Columns of `results.parquet`, in order; those of tasks follow. Only `_REQUIRED` are not null."""

TASK_PREFIX = "task:"
"""Start of the columns that `--eval.tasks` adds, `task:NAME:METRIC`; all are real numbers."""

AXIS_PREFIX = "axis:"
"""Start of the columns of settings in which the blocks of a sweep differ, such as
`axis:calibration.num_samples`. A cell that does not read a setting has no value."""

EVALUATION_COLUMNS = ("protocol", "eval_text", "eval_seq_len", "eval_stride", "num_eval_tokens")
"""Columns that say what a perplexity was measured on."""
CALIBRATION_COLUMNS = ("calibration_text", "calibration_tokens", "calibration_seq_len")
"""Columns that say what the inputs of layers were observed on."""
SETTINGS_COLUMNS = ("method_settings", "schedule", "budget", "finetune_settings")
SETTINGS_COLUMNS += CALIBRATION_COLUMNS
"""Columns that set curves of one method and regime apart; `curves.Settings` reads them."""

STATUSES = ("done", "failed", "not_run", "stopped")


def key_of(row: Row) -> str:
    """Return the key of a row as the curves and the page use it, from the row's own columns."""
    return row_key(row["cell_id"], json.dumps([row.get(name) for name in EVALUATION_COLUMNS]))


def check_row(row: Row) -> None:
    """Assert the contract of `SCHEMA`: known columns, required ones present, counts whole."""
    beyond = row.keys() - _KNOWN
    unknown = sorted(name for name in beyond if not name.startswith((TASK_PREFIX, AXIS_PREFIX)))
    assert not unknown, f"row has columns outside SCHEMA: {', '.join(unknown)}"
    missing = sorted(name for name in _REQUIRED if row.get(name) is None)
    assert not missing, f"row {row.get('cell_id')} lacks {', '.join(missing)}"
    assert row["status"] in STATUSES, f"row {row['cell_id']} has status {row['status']!r}"
    for name in _COUNTS:  # Arrow would turn 3.5 into 3 without a word
        value = row.get(name)
        whole = value is None or isinstance(value, int) and not isinstance(value, bool)
        assert whole, f"{name} of {row['cell_id']} is {value!r}"


def sort_key(row: Row) -> tuple[Any, ...]:
    """Sort rows by model, method, regime, mask structure, sparsity, seed and text, then by id."""
    seed, turn = row.get("seed"), row.get("round")
    return (
        row["model"],
        row["method"],
        row["regime"],
        row.get("mask_structure") or "",
        row["sparsity"],
        -1 if seed is None else seed,
        row["eval_text"],
        -1 if turn is None else turn,
        row["cell_id"],
        key_of(row),
    )


def task_columns_of(rows: Iterable[Row]) -> list[str]:
    """Return the columns of tasks that some of the rows have, in order."""
    names: set[str] = set().union(*rows)
    return sorted(name for name in names if name.startswith(TASK_PREFIX))


def axis_columns_of(rows: Iterable[Row]) -> dict[str, pa.DataType]:
    """Return the columns of axes that some of the rows have, in order, with their types."""
    values: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith(AXIS_PREFIX) and value is not None:
                values.setdefault(name, set()).add(type(value))
    return {name: _type_of(found) for name, found in sorted(values.items())}


def _type_of(types: set[type]) -> pa.DataType:
    if str in types:
        return _TEXT
    return _COUNT if types == {int} else _REAL


def axes_in(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings in which the blocks of a sweep differ, as far as a row reads them."""
    found = {n.removeprefix(AXIS_PREFIX): v for n, v in row.items() if n.startswith(AXIS_PREFIX)}
    return {name: str(value) for name, value in sorted(found.items()) if value is not None}


def on_each_line(row: Row) -> Iterator[Row]:
    """Yield a row under the names of each line of its grid that has its cell, its own first."""
    yield row
    own = dict.fromkeys(n for n in row if n.startswith(AXIS_PREFIX) or n in ("within", "searched"))
    for names in json.loads(row.get("also") or "[]"):
        yield {**row, **own, **names}


def shown_columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the columns that tables show: `SCHEMA`, and those used beside it.

    A column is used if some row has a value in it.
    """
    bought = [name for name in BOUGHT if any(row.get(name) is not None for row in rows)]
    return [*SCHEMA.names, *axis_columns_of(rows), *bought, *task_columns_of(rows)]


def regime_order(regime: str) -> int:
    """Return the place of a regime in tables and legends: dense first, most training last."""
    return REGIMES.index(regime) if regime in REGIMES else -1
