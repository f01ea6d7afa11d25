"""ELSA beside fine-tuned and iterative SparseGPT and ALPS, at equal training tokens a cell.

    python experiments/benches/compare_elsa.py [--out-dir results/elsa] [--parts short million four]
        [--minutes 115]

Sweeps of the embedded model in one store: one for each number of tokens, seed and sparsity, so the
same command goes on where it stopped. `--minutes` starts no sweep after so long, so that a part
fits two hours. Then it prints a table of all that is there; `--parts` alone prints only that.

- `short`: 262,144 tokens a cell, seeds 0 to 2, 0.5, 0.7, 0.9 and 0.95.
- `million`: the same with 1,048,576 tokens.
- `four`: 4,194,304 tokens, seed 0, 0.7, 0.9 and 0.95.

All of them learn from the dense model (KL, temperature 1). Iterative cells take four rounds of the
cubic schedule that share the tokens. Rates were chosen on validation text, on fewer tokens.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

from core.config import FinetuneConfig
from core.joint_config import JointConfig
from orchestrator.cli import quiet_libraries
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from orchestrator.results.numbers import format_perplexity, mean_and_std
from orchestrator.results.parquet import read_rows
from orchestrator.sweep import run_sweep

ALL, HIGH = (0.9, 0.7, 0.95, 0.5), (0.9, 0.7, 0.95)
PARTS = {
    "short": (262_144, (0, 1, 2), ALL),
    "million": (1_048_576, (0, 1, 2), ALL),
    "four": (4_194_304, (0,), HIGH),
}
"""Tokens a cell, seeds and sparsities of each part."""
RATE, JOINT_RATE = 1e-3, 3e-3


def configs(part: str, out_dir: str) -> Iterator[SweepConfig]:
    """Yield the sweeps of a part, seed by seed."""
    tokens, seeds, sparsities = PARTS[part]
    loss = {"distill": True, "distill_mix": 1.0, "distill_temperature": 1.0}
    for seed in seeds:
        for sparsity in sparsities:
            yield SweepConfig(
                grid=GridConfig(
                    methods=("sparsegpt", "alps", "elsa"),
                    regimes=("finetune", "iterative", "joint"),
                    sparsities=(sparsity,),
                    seeds=(seed,),
                    schedule="cubic",
                    num_rounds=4,
                ),
                finetune=FinetuneConfig(lr=RATE, tokens=tokens, budget="total", **loss),
                joint=JointConfig(lr=JOINT_RATE),
                resources=ResourceConfig(max_concurrent_trials=1),
                output=OutputConfig(out_dir=out_dir, keep="none"),
            )


def table(out_dir: str) -> str:
    """Return a Markdown table: test perplexity by tokens, method and regime, at each sparsity."""
    cells: dict[tuple[int, str, str], dict[float, list[float]]] = defaultdict(dict)
    for row in read_rows(os.path.join(out_dir, "results.parquet")):
        if row["status"] == "done" and row["method"] != "dense":
            line = (row["num_finetune_tokens"], row["method"], row["regime"])
            cells[line].setdefault(row["sparsity"], []).append(row["perplexity"])
    columns = sorted({sparsity for found in cells.values() for sparsity in found})
    lines = ["| tokens | | " + " | ".join(f"{s:g}" for s in columns) + " |"]
    lines.append("|---:|---|" + "---:|" * len(columns))
    for tokens, method, regime in sorted(cells):
        found = cells[tokens, method, regime]
        values = [format_perplexity(*mean_and_std(found[s])) if s in found else "" for s in columns]
        lines.append(f"| {tokens:,} | {method} {regime} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run the parts in order until the time is over; return 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out-dir", default="results/elsa")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--minutes", type=float, default=115.0)
    flags = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    quiet_libraries()
    code, end = 0, time.monotonic() + 60 * flags.minutes
    for config in (config for part in flags.parts for config in configs(part, flags.out_dir)):
        if time.monotonic() > end:
            print("time is over: the same command goes on from here")
            break
        code = max(code, run_sweep(config))
    if os.path.exists(os.path.join(flags.out_dir, "results.parquet")):
        print(table(flags.out_dir))
    return code


if __name__ == "__main__":
    sys.exit(main())
