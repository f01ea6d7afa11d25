"""Seconds and requests of finding out what is done in a store of 30,000 stages.

    python experiments/benches/measure_store.py [--stages 30000] [--milliseconds 30]

Writes a store of evaluations and pruned stages without weights, and a row for each third stage, on
the disk of temporary files. Reads it as one below a URI whose every request takes so long: without
an index, then with one. Then reads it as a local store, and writes its `results.parquet`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from slow_files import SlowFiles, slow_store

from orchestrator.results.collection import write_results
from orchestrator.results.gathering import gather, task_columns
from orchestrator.store.store import Store

DAY = 86_400
MATRICES = 72
"""Pruned matrices of OPT-125M."""


def main() -> None:
    """Write the store, and print what reading it takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", type=int, default=30_000)
    parser.add_argument("--milliseconds", type=float, default=30.0)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_stages(Path(folder), flags.stages)
        rows = write_rows(Path(folder), flags.stages)
        print(f"{flags.stages:,} stages, {rows:,} rows, {flags.milliseconds:g} ms a request")
        for index in ("no index", "an index"):
            store, slow = slow_store(Path(folder), flags.milliseconds / 1000)
            with told(f"remote, {index}", slow):
                store.stages.inspect()
                store.rows.read()
            with told("  saving the index", slow):
                store.save_indexes()
        sizes = [path.stat().st_size / 1e6 for path in Path(folder, "index").iterdir()]
        print(f"the index: {sum(sizes):.1f} MB")
        local = Store(folder)
        with told("local"):
            manifests, _ = local.stages.inspect()
            local.rows.read()
        write_rows(Path(folder), 3 * flags.stages)
        with told(f"local: {flags.stages:,} rows"):
            stored = local.rows.read()
        with told("  and results.parquet"):
            write_results(local, gather(stored, {}, task_columns(manifests)), "")


def write_stages(folder: Path, count: int) -> None:
    """Write manifests as sweeps do, of which every second pruned and has dropped its weights."""
    for i in range(count):
        stage = f"{i:032x}"
        metrics = {"perplexity": 20 + i / 7, "nll": 3 + i / 7e5, "seconds": i / 3}
        if i % 2:
            values = [(i * j % 997) / 997 for j in range(MATRICES)]
            names = [f"model.decoder.layers.{j // 6}.matrix{j % 6}" for j in range(MATRICES)]
            metrics["matrices"] = {"names": names, "errors": values, "sparsity": values[::-1]}
        manifest = {"id": stage, "kind": "prune" if i % 2 else "evaluate", "metrics": metrics}
        manifest |= {"files": {}, "upload": f"{3 * i:032x}", "dropped": True} if i % 2 else {}
        text = json.dumps({"files": {}, **manifest, "environment": {"torch_version": "2"}})
        place(folder / "stages" / stage / "manifest.json", text, i / count)


def write_rows(folder: Path, stages: int) -> int:
    """Write a row for each third stage; return how many."""
    settings = json.dumps({f"setting{i}": i for i in range(80)})
    for i in range(0, stages, 3):
        row = {
            "cell_id": f"{i:032x}",
            "model": "facebook/opt-125m",
            "method": "sparsegpt",
            "regime": "iterative",
            "sparsity": i % 19 / 20,
            "seed": i // 19,
            "round": 1,
            "protocol": "sparsegpt",
            "eval_text": "wikitext2",
            "perplexity": 20 + i / 7,
            "path": [0.1, 0.2, 0.3],
            "status": "done",
            "stage_id": f"{i:032x}",
            "config": settings,
            "environment": settings[:400],
            "in_current_grid": True,
            "_evaluation": f"{i:032x}",
            "_dense_evaluation": f"{0:032x}",
        }
        place(folder / "rows" / f"{i:024x}.json", json.dumps(row), i / stages)
    return len(range(0, stages, 3))


def place(path: Path, text: str, share: float) -> None:
    """Write a file that is between two days and one day old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    written = time.time() - (2 - share) * DAY
    os.utime(path, (written, written))


@contextmanager
def told(name: str, slow: SlowFiles | None = None) -> Iterator[None]:
    """Print the seconds and requests of the body, and the memory of the process after it."""
    requests = 0 if slow is None else slow.requests
    start, worked = time.perf_counter(), time.process_time()
    yield
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    asked = "" if slow is None else f" {slow.requests - requests:>7,} requests"
    memory = psutil.Process().memory_info().rss / 1e6
    print(
        f"{name:<24} {seconds:6.1f} s ({worked:5.1f} s of a processor) {memory:5.0f} MB{asked}",
        flush=True,
    )


if __name__ == "__main__":
    main()
