"""ELSA beside fine-tuned and iterative SparseGPT and ALPS, at equal training tokens a cell.

    python experiments/study_elsa.py [--parts short million four] [--seeds 0 1 2]
        [--minutes 115] [--out-dir results/elsa] [--rows experiments/studies/elsa.csv]

The embedded model. Cells whose rows the file has are not run again, on whatever machine they ran,
and finished cells are added to it. So the same command goes on where it stopped. `--minutes` starts
no sweep after so long, so that a part fits two hours. Then it prints a table and draws a figure,
OUT_DIR/elsa.svg, of all that the file has; `--parts` alone does only that.

- `short`: 262,144 tokens a cell, seeds 0 to 2, 0.5, 0.7, 0.9 and 0.95.
- `million`: the same with 1,048,576 tokens.
- `four`: 4,194,304 tokens, seed 0, 0.7, 0.9 and 0.95.

SparseGPT and ALPS train by the default recipe, `adaptive`; iterative cells take four rounds of the
cubic schedule that share the tokens. ELSA learns from the dense model (KL, temperature 1), with
rates and penalties that were chosen on validation text, on fewer tokens.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from line_figure import Panel, figure

from core.config import FinetuneConfig
from core.joint_config import JointConfig
from orchestrator.cli import quiet_libraries
from orchestrator.config import GridConfig, OutputConfig, SweepConfig
from orchestrator.results.numbers import format_perplexity, mean_and_std
from orchestrator.results.parquet import read_rows
from orchestrator.sweep import run_sweep

ROWS = Path(__file__).parent / "studies" / "elsa.csv"
COLUMNS = ("tokens", "seed", "sparsity", "method", "regime", "training", "perplexity")
HIGH, LOW = (0.9, 0.95), (0.5, 0.7)
SEEDS = (0, 1, 2)
PARTS = {
    "short": (262_144, SEEDS, (HIGH, LOW)),
    "million": (1_048_576, SEEDS, (HIGH, LOW)),
    "four": (4_194_304, SEEDS[:1], (HIGH, LOW[1:])),
}
"""Tokens a cell, seeds and sparsities of each part."""
JOINT = {HIGH: JointConfig(lr=3e-3, penalty=0.003), LOW: JointConfig(lr=1e-3, penalty=0.01)}
"""Chosen on validation text with 131,072 tokens (studies/elsa.md)."""
KL = {"distill": True, "distill_mix": 1.0, "distill_temperature": 1.0}


@dataclass(frozen=True)
class Piece:
    """A sweep and what its cells share."""

    config: SweepConfig
    tokens: int
    training: str
    """Settings that are no columns of their own."""

    def cells(self) -> set[tuple[str, ...]]:
        """Return the first columns of the rows that it gives."""
        grid = self.config.grid
        return {
            (str(self.tokens), str(seed), f"{sparsity:g}", method, regime, self.training)
            for seed in grid.seeds
            for sparsity in grid.sparsities
            for method in grid.methods
            for regime in grid.regimes
        }

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield the rows of its cells that are done."""
        wanted, seeds = self.cells(), self.config.grid.seeds
        for row in read_rows(os.path.join(self.config.output.out_dir, "results.parquet")):
            if row["status"] != "done" or row["seed"] not in seeds:
                continue
            place = f"{row['sparsity']:g}", row["method"], row["regime"]
            cell = (str(row["num_finetune_tokens"]), str(row["seed"]), *place, self.training)
            if cell in wanted:
                yield (*cell, f"{row['perplexity']:.4f}")


def pieces(part: str, seeds: list[int], out_dir: str) -> Iterator[Piece]:
    """Yield the sweeps of a part, seed by seed."""
    tokens, all_seeds, groups = PARTS[part]
    for seed in (seed for seed in all_seeds if seed in seeds):
        for sparsities in groups:
            shared = {"sparsities": sparsities, "seeds": (seed,)}
            joint = next(JOINT[group] for group in JOINT if sparsities[0] in group)
            output = OutputConfig(out_dir=out_dir, keep="none")
            elsa = SweepConfig(
                grid=GridConfig(methods=("elsa",), regimes=("joint",), **shared),
                finetune=FinetuneConfig(tokens=tokens, budget="total", **KL),
                joint=joint,
                output=output,
            )
            layers = SweepConfig(
                grid=GridConfig(
                    methods=("sparsegpt", "alps"),
                    regimes=("finetune", "iterative"),
                    schedule="cubic",
                    num_rounds=4,
                    **shared,
                ),
                finetune=FinetuneConfig(objective="adaptive", tokens=tokens, budget="total"),
                output=output,
            )
            yield Piece(elsa, tokens, f"KL, rate {joint.lr}, penalty {joint.penalty}")
            yield Piece(layers, tokens, "adaptive")


def known_rows(file: Path) -> dict[tuple[str, ...], float]:
    """Return the perplexity of each cell that the file has."""
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        _, *rows = csv.reader(lines)
    return {tuple(cell): float(perplexity) for *cell, perplexity in rows}


def add_rows(file: Path, piece: Piece) -> None:
    """Add the rows of a sweep that the file lacks."""
    found = {cell: f"{value:.4f}" for cell, value in known_rows(file).items()}
    found |= {tuple(cell): perplexity for *cell, perplexity in piece.rows()}
    order = sorted(found, key=lambda cell: (int(cell[0]), *cell[3:5], float(cell[2]), cell[1]))
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines, lineterminator="\n").writerows(
            [COLUMNS, *((*cell, found[cell]) for cell in order)]
        )


def by_line(file: Path) -> dict[tuple[int, str], dict[float, list[float]]]:
    """Return the perplexities of all seeds by tokens and method with regime, then by sparsity."""
    lines: dict[tuple[int, str], dict[float, list[float]]] = defaultdict(dict)
    for (tokens, _, sparsity, method, regime, _), value in known_rows(file).items():
        line = lines[int(tokens), f"{method} {regime}"]
        line.setdefault(float(sparsity), []).append(value)
    return dict(sorted(lines.items()))


def table(file: Path) -> str:
    """Return a Markdown table: test perplexity by tokens, method and regime, at each sparsity."""
    found = by_line(file)
    columns = sorted({sparsity for line in found.values() for sparsity in line})
    lines = ["| tokens | | " + " | ".join(f"{s:g}" for s in columns) + " |"]
    lines.append("|---:|---|" + "---:|" * len(columns))
    for (tokens, name), line in found.items():
        values = [format_perplexity(*mean_and_std(line[s])) if s in line else "" for s in columns]
        lines.append(f"| {tokens:,} | {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def drawn(file: Path) -> str:
    """Return a figure: a panel for each number of tokens, a line for each method and regime."""
    panels: dict[int, dict[str, dict[float, float]]] = defaultdict(dict)
    for (tokens, name), line in by_line(file).items():
        panels[tokens][name] = {x: mean_and_std(v)[0] for x, v in sorted(line.items())}
    told = "{:,} training tokens: perplexity by sparsity"
    return figure(
        [
            Panel(told.format(tokens), lines, y_scale=math.log, label_width=130)
            for tokens, lines in panels.items()
        ]
    )


def main() -> int:
    """Run the parts in order until the time is over; return 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out-dir", default="results/elsa")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--minutes", type=float, default=115.0)
    flags = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    quiet_libraries()
    code, end = 0, time.monotonic() + 60 * flags.minutes
    wanted = (p for part in flags.parts for p in pieces(part, flags.seeds, flags.out_dir))
    for piece in wanted:
        if piece.cells() <= known_rows(flags.rows).keys():
            continue
        if time.monotonic() > end:
            print("time is over: the same command goes on from here")
            break
        code = max(code, run_sweep(piece.config))
        add_rows(flags.rows, piece)
    if flags.rows.exists():
        print(table(flags.rows))
        path = Path(flags.out_dir) / "elsa.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(drawn(flags.rows), encoding="utf-8")
        print(f"figure  {path}")
    return code


if __name__ == "__main__":
    sys.exit(main())
