"""A made-up sweep in a store: rows, record and pulse as a real one leaves them."""

from __future__ import annotations

import json
import runpy
import time
from pathlib import Path
from typing import Any

from orchestrator.plan.identity import row_key
from orchestrator.results.names import CellName
from orchestrator.store.store import MARKER, Store

make_row = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))["make_row"]
SWEEP = "feedbeefcafe"


class StoredSweep:
    """Writes into an out-dir what a sweep would, piece by piece."""

    def __init__(self, out_dir: Path | str, cells: list[dict[str, Any]], **config: Any):
        self.store = Store(str(out_dir))
        self.store.files.write_bytes(b'{"format": 1}\n', MARKER)
        self.rows = [make_row(**cell) for cell in cells]
        for row in self.rows:
            # As long as real ids, and as different in their first letters.
            row["cell_id"] = row_key(json.dumps([row["model"], CellName.of_row(row).full]), "cell")
        described = [
            {name: row[name] for name in ("model", "method", "regime", "sparsity", "round")}
            | {"id": row["cell_id"], "mask_structure": row["mask_structure"], "seed": row["seed"]}
            | {"rows": {self.key(row): row["eval_text"]}}
            for row in self.rows
        ]
        grid = {"protocol": "sparsegpt"}
        self.record = {
            "sweep_id": SWEEP,
            "command": "python experiments/sweep_opt.py --out-dir here",
            "config": {"grid": grid, "finetune": {"tokens": 1024}} | config,
            "cells": described,
            "models": {},
            "sources": {},
            "versions": {"code_version": "0.1.0"},
        }
        self.write_record()

    @staticmethod
    def key(row: dict[str, Any]) -> str:
        return row_key(row["cell_id"], "evaluation")

    def write_record(self) -> None:
        data = json.dumps(self.record).encode()
        self.store.files.write_bytes(data, "sweeps", f"{SWEEP}.json")

    def finish(self, *numbers: int, **changes: Any) -> None:
        """The rows of these cells appear."""
        for number in numbers:
            row = self.rows[number] | changes
            dense = f"dense {row['model']} {row['eval_text']}"
            mine = dense if row["regime"] == "dense" else row["cell_id"]
            inside = {"_interrupted": False, "_evaluation": mine, "_dense_evaluation": dense}
            self.store.rows.put(self.key(row), row | inside)

    def beat(self, *running: int, ago: float = 0.0, ended: bool = False) -> None:
        """The sweep shows that it is alive, or was, some seconds ago."""
        data = {"started_at": 0.0, "seen_at": time.time() - ago, "ended": ended}
        data |= {"running": [self.rows[i]["cell_id"] for i in running], "seconds_left": 200.0}
        done = len(self.store.files.names("rows"))
        data["trials"] = [
            {"name": "a trial", "cells": len(self.rows), "done": done, "now": cell}
            for cell in data["running"]
        ]
        self.store.files.write_bytes(json.dumps(data).encode(), "pulse", f"{SWEEP}.json")
