"""Rows: one per cell and evaluation text, from the store's JSON to Parquet and to the terminal.

Place in the flow: ... -> perplexity -> **row -> Parquet** -> curve. `SCHEMA` is the whole contract
of a row; the table that closes a sweep is drawn here too, and needs neither Ray nor Plotly.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from pyarrow.fs import FileSystem

from orchestrator.files import replace_file

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
SCHEMA = pa.schema([pa.field(name, kind, name not in _REQUIRED) for name, kind in _COLUMNS.items()])
"""Columns of `results.parquet`, in order; those of tasks follow. Only `_REQUIRED` are not null."""

TASK_PREFIX = "task:"
"""Begins the columns that `--eval.tasks` adds, `task:NAME:METRIC`; all of them real numbers."""

STATUSES = ("done", "failed", "not_run", "stopped")
REGIMES = ("oneshot", "finetune", "iterative")


def row_key(cell_id: str, eval_identity: str) -> str:
    """Names a row, fit for a file name: a hash of the cell and of what it was evaluated on."""
    return hashlib.sha256(json.dumps([cell_id, eval_identity]).encode()).hexdigest()[:24]


def key_of(row: Row) -> str:
    """The key of a row as the curves and the page use it, from the row's own columns."""
    fields = ("protocol", "eval_text", "eval_seq_len", "eval_stride", "num_eval_tokens")
    return row_key(row["cell_id"], json.dumps([row.get(field) for field in fields]))


def check_row(row: Row) -> None:
    """Asserts the contract of `SCHEMA`: known columns, required ones present, counts whole."""
    unknown = sorted(name for name in set(row) - set(_COLUMNS) if not name.startswith(TASK_PREFIX))
    assert not unknown, f"row has columns outside SCHEMA: {', '.join(unknown)}"
    missing = sorted(name for name in _REQUIRED if row.get(name) is None)
    assert not missing, f"row {row.get('cell_id')} lacks {', '.join(missing)}"
    assert row["status"] in STATUSES, f"row {row['cell_id']} has status {row['status']!r}"
    for name, value in row.items():  # Arrow would truncate 3.5 to 3 without a word
        if name.startswith(TASK_PREFIX):
            continue
        whole = value is None or isinstance(value, int) and not isinstance(value, bool)
        assert _COLUMNS[name] != _COUNT or whole, f"{name} of {row['cell_id']} is {value!r}"


def sort_key(row: Row) -> tuple[Any, ...]:
    """Model, method, regime, mask structure, sparsity, seed, text; ids break ties."""
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
    """The columns beyond `SCHEMA` that some of the rows have, in order."""
    return sorted({name for row in rows for name in row if name.startswith(TASK_PREFIX)})


def to_table(rows: Iterable[Row]) -> pa.Table:
    """Rows as an Arrow table, sorted; asserts that each one keeps the contract of `SCHEMA`."""
    rows = list(rows)
    for row in rows:
        check_row(row)
    tasks = (pa.field(name, _REAL) for name in task_columns_of(rows))
    schema = pa.schema([*SCHEMA, *tasks])
    return pa.Table.from_pylist(sorted(rows, key=sort_key), schema=schema)


def write_parquet(
    rows: Iterable[Row], path: str | os.PathLike[str], filesystem: FileSystem | None = None
) -> None:
    """Writes all rows as one Parquet file: a reader sees the old file or the new, never half."""
    sink = pa.BufferOutputStream()
    parquet.write_table(to_table(rows), sink, compression="zstd")
    replace_file(sink.getvalue(), path, filesystem)


def read_rows(path: str | os.PathLike[str], filesystem: FileSystem | None = None) -> list[Row]:
    """The rows of a `results.parquet`, with every column of `SCHEMA`."""
    return parquet.read_table(os.fspath(path), filesystem=filesystem).to_pylist()


def regime_order(regime: str) -> int:
    """Where a regime stands in tables and legends: the more training, the later; dense first."""
    return REGIMES.index(regime) if regime in REGIMES else -1


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Arithmetic mean and sample standard deviation of the finite values; None where undefined."""
    finite = [value for value in values if math.isfinite(value)]
    mean = statistics.fmean(finite) if finite else None
    return mean, statistics.stdev(finite) if len(finite) > 1 else None


def format_perplexity(mean: float, std: float | None = None) -> str:
    """A perplexity as compactly as its spread allows: `27.66`, `41.2±0.3`, `1.2e+04`, `inf`."""
    if not math.isfinite(mean):
        return str(mean)
    if mean >= 9999.5:
        return f"{mean:.1e}" + (f"±{std:.0e}" if std is not None else "")
    digits = 2 if mean < 100 else 1 if mean < 1000 else 0
    if std is None:
        return f"{mean:.{digits}f}"
    if std >= 0.095:
        digits = min(digits, 1)
    return f"{mean:.{digits}f}±{std:.{digits}f}"


def clock(seconds: float) -> str:
    """Seconds as 45s, 3m20s or 2h05m."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def summary_table(rows: Iterable[Row], width: int = 79) -> str:
    """The perplexities of the current grid as text: a block per model and evaluation.

    Lines are methods and regimes, columns are targets; wider tables go on in further blocks. Apart
    from the ± of several seeds the text is ASCII, whatever the names hold.
    """
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in sorted((r for r in rows if r["in_current_grid"]), key=sort_key):
        names = ("model", "eval_text", "protocol")
        groups[tuple(row[name] for name in names)].append(row)
    blocks = [_model_block(group, width) for group in groups.values()]
    return "\n\n".join(blocks) if blocks else "no cells yet"


def _model_block(rows: list[Row], width: int) -> str:
    dense = [row for row in rows if row["method"] == "dense"]
    title = f"{_ascii(rows[0]['model'])} on {_ascii(rows[0]['eval_text'])}"
    reference = _cell([row for row in dense if row["regime"] == "dense"])
    heading = f"{title} ({_ascii(rows[0]['protocol'])}): perplexity, dense {reference}"
    control: dict[int, list[Row]] = defaultdict(list)
    for row in dense:
        if row["regime"] != "dense":
            control[row.get("round") or 0].append(row)
    text = textwrap.wrap(heading, width)
    if control:
        turns = ", ".join(f"{_cell(control[turn])} (round {turn})" for turn in sorted(control))
        text += textwrap.wrap(f"dense, fine-tuned alike: {turns}", width)
    lines: dict[tuple[str, ...], dict[tuple[bool, float, str], list[Row]]] = {}
    for row in sorted(rows, key=lambda row: (row["method"], regime_order(row["regime"]))):
        if row["method"] != "dense":
            structure = row.get("mask_structure") or ""
            target = (bool(structure), row["sparsity"], structure)
            lines.setdefault(_line_of(row), {}).setdefault(target, []).append(row)
    table = _table_blocks(lines, width)
    if any("!" in line for line in table):
        table.append("! the mean leaves out seeds that failed or are not finite")
    return "\n".join(text + table)


def _line_of(row: Row) -> tuple[str, ...]:
    """What separates two lines of the table: method and regime, then the settings behind them."""
    settings = ("method_settings", "schedule", "budget", "finetune_settings", "calibration_text")
    return (row["method"], row["regime"], *(str(row.get(name) or "") for name in settings))


def _table_blocks(
    lines: dict[tuple[str, ...], dict[tuple[bool, float, str], list[Row]]], width: int
) -> list[str]:
    names, notes = {}, []
    for line in lines:
        names[line] = _ascii(f"{line[0]} {line[1]}")
        if sum(other[:2] == line[:2] for other in lines) > 1:
            names[line] += f" [{len(notes) + 1}]"
            note = f"[{len(notes) + 1}] " + " ".join(filter(None, line[2:]))
            notes.append(textwrap.shorten(_ascii(note), width, placeholder=" ..."))
    first = max(map(len, names.values()), default=0)
    blocks: list[list[str]] = []
    for target in sorted({target for line in lines.values() for target in line}):
        column = [target[2] or f"{target[1]:g}"]
        column += [_cell(cells.get(target, [])) for cells in lines.values()]
        size = max(map(len, column)) + 2
        if not blocks or len(blocks[-1][0]) + size > width:
            blocks.append([" " * first, *(name.ljust(first) for name in names.values())])
        blocks[-1] = [line + text.rjust(size) for line, text in zip(blocks[-1], column)]
    return [line for i, block in enumerate(blocks) for line in [""] * bool(i) + block] + notes


def _cell(rows: list[Row]) -> str:
    """The text of one target: mean over its seeds, or why there is none."""
    values = [
        row["perplexity"]
        for row in rows
        if row["status"] == "done" and row.get("perplexity") is not None
    ]
    mean, std = mean_and_std(values)
    if mean is not None:
        complete = len(values) == len(rows) and all(map(math.isfinite, values))
        return format_perplexity(mean, std) + "!" * (not complete)
    if values:
        return str(values[0])
    for status in ("failed", "stopped", "not_run"):
        if any(row["status"] == status for row in rows):
            return status.replace("_", " ")
    return "-"


def _ascii(text: str) -> str:
    return ascii(text)[1:-1]
