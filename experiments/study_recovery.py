"""Does iterative pruning with fine-tuning win, and which training helps most?

    python experiments/study_recovery.py --out-dir results/recovery [--seeds 0 1 2] [--parts ...] \
        [--objective next_token]

Runs several sweeps of the embedded model in one store, one after the other, and then prints a table
over seeds of all that is there. The same command resumes it. `--parts` without a name prints the
table alone. `--objective` is that of `round`, `total` and `alps`, by default the project's own.

- `kinds`: SparseGPT at 0.5, 0.7 and 0.9, fine-tuned and iterative, with every objective and every
  choice of trained parameters. Each round takes the best of three learning rates.
- `round`, `total`: SparseGPT, Wanda and magnitude in all regimes at 0.3 to 0.9, under each budget.
- `alps`: the same for ALPS, under both budgets.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict

from core.config import FinetuneConfig
from orchestrator.cli import guarded, run
from orchestrator.config import GridConfig, OutputConfig, SweepConfig
from orchestrator.results.numbers import format_perplexity, mean_and_std
from orchestrator.results.parquet import read_rows

RATES = (3e-4, 1e-3, 3e-3)
KINDS = {
    "adaptive": {"objective": "adaptive", "lr": None},
    "next token": {},
    "distill": {"distill": True},
    "reconstruct": {"objective": "reconstruct"},
    "bias_norm": {"trainable": "bias_norm"},
    "masklora": {"trainable": "masklora"},
}
METHODS = ("sparsegpt", "wanda", "magnitude")


def configs(part: str, objective: str, seeds: list[int], out_dir: str) -> list[SweepConfig]:
    """Return the sweeps of one part, seed by seed, so that whole seeds are done first."""
    output = OutputConfig(out_dir=out_dir)
    if part == "kinds":
        return [
            SweepConfig(
                grid=GridConfig(methods=("sparsegpt",), sparsities=(0.5, 0.7, 0.9), seeds=(seed,)),
                finetune=FinetuneConfig(**{"lr": RATES, **settings}),
                output=output,
            )
            for seed in seeds
            for settings in KINDS.values()
        ]
    methods, budgets = (("alps",), ("round", "total")) if part == "alps" else (METHODS, (part,))
    return [
        SweepConfig(
            grid=GridConfig(methods=methods, sparsities=(0.3, 0.5, 0.7, 0.8, 0.9), seeds=(seed,)),
            finetune=FinetuneConfig(budget=budget, objective=objective),
            output=output,
        )
        for seed in seeds
        for budget in budgets
    ]


def table(out_dir: str) -> str:
    """Return mean and spread over seeds for every kind of training, method, regime and budget."""
    cells: dict[tuple, dict[float, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in read_rows(os.path.join(out_dir, "results.parquet")):
        if row["status"] != "done":
            continue
        settings = json.loads(row["finetune_settings"] or "{}")
        kind = " ".join(f"{k}={v}" for k, v in settings.items()) or "plain"
        line = (kind, row["method"], row["regime"], row["budget"] or "-")
        place = row["round"] if row["method"] == "dense" else row["sparsity"]
        cells[line][place].append(row)
    lines = []
    for line in sorted(cells):
        found = []
        for place, rows in sorted(cells[line].items()):
            value = format_perplexity(*mean_and_std([row["perplexity"] for row in rows]))
            rates = sorted({f"{row['finetune_lr']:g}" for row in rows if row["finetune_lr"]})
            tokens = max(row["num_finetune_tokens"] or 0 for row in rows)
            note = f"{len(rows)} seeds, {tokens} tokens" + f", lr {' '.join(rates)}" * bool(rates)
            found.append(f"  {place:g}: {value}  ({note})")
        lines += [" | ".join(line), *found]
    return "\n".join(lines)


def main() -> int:
    """Read the flags and run what they ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out-dir", default="results/recovery")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="*", default=["round", "total", "alps", "kinds"])
    parser.add_argument("--objective", default=SweepConfig().finetune.objective)
    return guarded(lambda: study(parser.parse_args()))


def study(flags: argparse.Namespace) -> int:
    """Run the parts in order, seed by seed; return 1 if a cell failed."""
    code = 0
    for part in flags.parts:
        for config in configs(part, flags.objective, flags.seeds, flags.out_dir):
            code = max(code, run(config))
    print(table(flags.out_dir))
    return code


if __name__ == "__main__":
    sys.exit(main())
