"""Cells and seconds of searches beside those of a grid of step 0.01 with the same answers.

    python experiments/benches/measure_search.py                  # all methods and regimes, hours
    python experiments/benches/measure_search.py --methods sparsegpt --regimes oneshot

Runs `sweep_opt.py --within 1.1 1.5 3` on the embedded model; further flags are those of the sweep.
Then it counts: cells of the coarse grid, cells that each search has added, and their seconds of
pruning, training and evaluation as the rows tell them. The fine grid is not run. It has every
hundredth from the lowest to the highest sparsity of the coarse grid, and its seconds are estimated
from the mean cell of each line: a stage of its own for each sparsity, and for iterative lines one
branch through all of them. The same command again goes on where it stopped.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from orchestrator.results.board import Board, Line, boards_of
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.found import found_on
from orchestrator.results.parquet import read_rows
from orchestrator.results.schema import Row

SCRIPT = Path(__file__).parents[1] / "sweep_opt.py"
OUT = "results/search"
FLAGS = ("--methods", "magnitude", "wanda", "sparsegpt", "alps", "--within", "1.1", "1.5", "3")
STEP = 0.01


def main() -> int:
    """Run the sweep, then print a line for each method and regime."""
    further = sys.argv[1:]
    own = without(FLAGS, further)
    out = further[further.index("--out-dir") + 1] if "--out-dir" in further else OUT
    place = [] if "--out-dir" in further else ["--out-dir", OUT]
    code = subprocess.run([sys.executable, str(SCRIPT), *own, *place, *further]).returncode
    rows = [row for row in read_rows(f"{out}/results.parquet") if row["in_current_grid"]]
    for board in boards_of(curves_from_rows(rows)):
        print_board(board, rows)
    return code


def without(flags: tuple[str, ...], given: list[str]) -> list[str]:
    """Return the flags with their values, apart from those that were given."""
    kept: list[str] = []
    keeps = True
    for word in flags:
        keeps = word not in given if word.startswith("--") else keeps
        kept += [word] if keeps else []
    return kept


def print_board(board: Board, rows: list[Row]) -> None:
    """Print the table of one model and evaluation, in Markdown."""
    print(f"\n{board.model} on {board.evaluation.text}\n")
    print("| line | answers | coarse cells | added | seconds | step 0.01: cells | seconds |")
    print("|---|---|---|---|---|---|---|")
    for line in board.lines:
        if not line.is_control and line.curve.within:
            print(line_of(line, board, rows))


def line_of(line: Line, board: Board, rows: list[Row]) -> str:
    """Return what one line took, and what a fine grid would take."""
    mine = [r for r in rows if (r["method"], r["regime"]) == (line.method, line.regime)]
    mine = [row for row in mine if row["mask_structure"] is None and row["status"] == "done"]
    added = [row for row in mine if row.get("searched")]
    coarse = sorted({row["sparsity"] for row in mine if not row.get("searched")})
    cells = round((coarse[-1] - coarse[0]) / STEP) + 1
    seeds = max(1, len({row["seed"] for row in mine}))
    each = [own_seconds(row) for row in mine]
    fine = sum(each) / len(each) * cells * seeds
    answers = ", ".join(f"{e.text} ({e.ratio:g}×)" for e in found_on(board) if e.line is line)
    told = (len(mine) - len(added), len(added), f"{sum(each):.0f}", cells * seeds, f"{fine:.0f}")
    return f"| {line.name} | {answers} | {' | '.join(map(str, told))} |"


def own_seconds(row: Row) -> float:
    """Return the seconds of a cell's own stages: of an iterative one, of its last round."""
    rounds = row["num_rounds"] or 1 if row["regime"] == "iterative" else 1
    history = (row["prune_seconds"] or 0.0) + (row["finetune_seconds"] or 0.0)
    return history / rounds + (row["evaluate_seconds"] or 0.0)


if __name__ == "__main__":
    sys.exit(main())
