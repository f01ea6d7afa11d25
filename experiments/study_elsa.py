"""ELSA beside fine-tuned and iterative SparseGPT and ALPS, at equal training tokens a cell.

    python experiments/study_elsa.py [--parts short million four] [--seeds 0 1 2]
        [--minutes 115] [--out-dir results/elsa] [--rows experiments/studies/elsa.csv]
        [--figure experiments/figures/elsa.svg]

The embedded model. Cells whose rows the file has are not run again, on whatever machine they ran,
and finished cells are added to it when their sweep ends or is stopped. So the same command goes on
where it stopped. `--minutes` starts no sweep after so long. A sweep holds all seeds of `--seeds`:
give one seed where a part must fit two hours. Then it prints tables and draws a figure of all that
the file has; `--parts` alone does only that.

- `short`: 262,144 tokens a cell, seeds 0 to 2, 0.5, 0.7, 0.9 and 0.95.
- `million`: the same with 1,048,576 tokens.
- `four`: 4,194,304 tokens, seed 0, 0.7, 0.9 and 0.95.

SparseGPT and ALPS train by the default recipe, `adaptive`; iterative cells take four rounds of the
cubic schedule that share the tokens. ELSA learns from the dense model (KL, temperature 1). A part
first chooses its rate and penalty for each sparsity on validation text, with seed 0 and the part's
own tokens; `four` takes those of `million`.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from elsa_rows import BEFORE, Cell, Lines, Rows, add_rows, drawn, known_rows, table

from core.config import EvalConfig, FinetuneConfig
from core.joint_config import JointConfig
from orchestrator.blocks import BlocksConfig
from orchestrator.cli import guarded, run
from orchestrator.config import GridConfig, OutputConfig, SweepConfig
from orchestrator.results import collection
from orchestrator.results.parquet import read_rows
from orchestrator.store.files import replace_file

ROWS = Path(__file__).parent / "studies" / "elsa.csv"
FIGURE = Path(__file__).parent / "figures" / "elsa.svg"
TEST, VALIDATION = "embedded", "embedded:validation"
SEEDS = (0, 1, 2)
HIGH, LOW = (0.9, 0.95), (0.5, 0.7)
PARTS = {
    "short": (262_144, SEEDS, (HIGH, LOW)),
    "million": (1_048_576, SEEDS, (HIGH, LOW)),
    "four": (4_194_304, SEEDS[:1], (HIGH, LOW[1:])),
}
"""Tokens a cell, seeds and sparsities of each part."""
LAYER_METHODS = ("sparsegpt", "alps")
TRIED = {
    262_144: {
        HIGH: ((3e-3, 0.003), (3e-3, 0.001), (3e-3, 0.0003), (2e-3, 0.001), (5e-3, 0.001)),
        LOW: ((1e-3, 0.01), (1e-3, 0.003), (5e-4, 0.01), (5e-4, 0.003), (5e-4, 0.03)),
    },
    1_048_576: {
        HIGH: ((3e-3, 0.001), (3e-3, 0.0005), (2e-3, 0.001)),
        LOW: ((1e-3, 0.01), (5e-4, 0.01), (2.5e-4, 0.01)),
    },
}
"""Rates and penalties to choose from, by tokens; more tokens begin near the choice of fewer."""
ADAPTIVE = "adaptive 3"
"""Training of methods that prune layer by layer. Rows of `adaptive` are of the first version: it
reconstructed up to 1 nat whatever the tokens, also models that had learned predictions before.
Rows of `adaptive 2` reconstruct up to a limit that falls with the root of the tokens, where it now
falls with the tokens; their rounds took 128 steps or, where it is said, 512 as they do now."""
KL = {"distill": True, "distill_mix": 1.0, "distill_temperature": 1.0}


@dataclass(frozen=True)
class Piece:
    """A sweep and what its cells share."""

    config: SweepConfig
    tokens: int
    training: str
    """Settings that are no columns of their own."""

    def cells(self) -> set[Cell]:
        """Return the first columns of the rows that it gives."""
        grid = self.config.grid
        [text] = self.config.eval.texts
        return {
            (str(self.tokens), text, str(seed), f"{sparsity:g}", method, regime, self.training)
            for seed in grid.seeds
            for sparsity in grid.sparsities
            for method in grid.methods
            for regime in grid.regimes
        }

    def rows(self, out_dir: str) -> Iterator[Cell]:
        """Yield the rows of its cells that are done, after its sweep was the last one to run."""
        wanted, [text] = self.cells(), self.config.eval.texts
        file = os.path.join(out_dir, collection.FILE)
        for row in read_rows(file) if os.path.exists(file) else ():
            # Rows of other sweeps of the store may differ in rate and penalty alone.
            if row["status"] != "done" or not row["in_current_grid"] or row["eval_text"] != text:
                continue
            place = str(row["seed"]), f"{row['sparsity']:g}", row["method"], row["regime"]
            cell = (str(row["num_finetune_tokens"]), text, *place, self.training)
            if cell in wanted:
                yield (*cell, f"{row['perplexity']:.4f}")


def joint_piece(
    tokens: int, text: str, seed: int, setting: tuple[float, float], *sparsities: float
) -> Piece:
    """Return the sweep of ELSA with one rate and penalty."""
    lr, penalty = setting
    config = SweepConfig(
        grid=GridConfig(
            methods=("elsa",), regimes=("joint",), sparsities=sparsities, seeds=(seed,)
        ),
        finetune=FinetuneConfig(tokens=tokens, budget="total", **KL),
        joint=JointConfig(lr=lr, penalty=penalty),
        eval=EvalConfig(texts=(text,)),
    )
    return Piece(config, tokens, label(setting))


def label(setting: tuple[float, float]) -> str:
    """Return the name of a training of ELSA with a rate and a penalty."""
    lr, penalty = setting
    return f"KL, rate {lr}, penalty {penalty}"


def layer_piece(regime: str, tokens: int, method: str, sparsity: float, seed: int) -> Piece:
    """Return the cell of a method that prunes layer by layer and then trains."""
    rounds = {"schedule": "cubic", "num_rounds": 4} if regime == "iterative" else {}
    config = SweepConfig(
        grid=GridConfig(
            methods=(method,), regimes=(regime,), sparsities=(sparsity,), seeds=(seed,), **rounds
        ),
        finetune=FinetuneConfig(objective="adaptive", tokens=tokens, budget="total"),
        eval=EvalConfig(texts=(TEST,)),
    )
    return Piece(config, tokens, ADAPTIVE)


def choices(tokens: int, *sparsities: float) -> dict[tuple[float, float], Piece]:
    """Return the sweeps that choose ELSA's rate and penalty for sparsities of one group."""
    # The longest part chooses with fewer tokens.
    tokens = min(tokens, max(TRIED))
    [tried] = [tried for group, tried in TRIED[tokens].items() if sparsities[0] in group]
    return {setting: joint_piece(tokens, VALIDATION, 0, setting, *sparsities) for setting in tried}


def chosen(known: Rows, tokens: int, sparsity: float) -> tuple[float, float] | None:
    """Return the rate and penalty that did best on validation text; None if none was tried.

    One that failed has no row and is not chosen.
    """
    found = {
        setting: known[cell]
        for setting, piece in choices(tokens, sparsity).items()
        for cell in piece.cells() & known.keys()
        if math.isfinite(known[cell])
    }
    return min(found, key=lambda setting: found[setting], default=None)


def sweeps(part: str, seeds: list[int], file: Path) -> Iterator[list[Piece]]:
    """Yield what runs as one sweep: choices one by one, then the seeds together.

    The pieces of a sweep have no cell in common. `finetune` comes last.
    """
    tokens, all_seeds, groups = PARTS[part]
    for group in groups:
        yield from ([piece] for piece in choices(tokens, *group).values())
    wanted = [seed for seed in all_seeds if seed in seeds]
    together: dict[tuple[float, float], list[float]] = defaultdict(list)
    for sparsity in (sparsity for group in groups for sparsity in group):
        setting = chosen(known_rows(file), tokens, sparsity)
        if setting is None:
            raise SystemExit(f"every rate and penalty tried at {sparsity} failed")
        together[setting].append(sparsity)
    yield [
        joint_piece(tokens, TEST, seed, setting, *sparsities)
        for seed in wanted
        for setting, sparsities in together.items()
    ]
    for regime in ("iterative", "finetune"):
        for group in groups:
            cells = product(LAYER_METHODS, group, wanted)
            yield [layer_piece(regime, tokens, *cell) for cell in cells]


def by_line(known: Rows) -> Lines:
    """Return the perplexities of all seeds on the test text by method and regime.

    Of ELSA's rows those with the chosen rate and penalty count.
    """
    lines: Lines = defaultdict(dict)
    for (tokens, text, _, sparsity, method, regime, training), value in known.items():
        if text != TEST:
            continue
        if method == "elsa":
            setting = chosen(known, int(tokens), float(sparsity))
            if setting is None or training != label(setting):
                continue
        before = "" if method == "elsa" or training == ADAPTIVE else BEFORE[training]
        line = lines[int(tokens), f"{method} {regime}{before}"]
        line.setdefault(float(sparsity), []).append(value)
    return dict(sorted(lines.items()))


def choice_lines(known: Rows) -> Lines:
    """Return the perplexities on validation text by setting."""
    lines: Lines = defaultdict(dict)
    for (tokens, text, _, sparsity, _, _, training), value in known.items():
        if text == VALIDATION:
            lines[int(tokens), training][float(sparsity)] = [value]
    return dict(sorted(lines.items()))


def main() -> int:
    """Read the flags and run what they ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out-dir", default="results/elsa")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--minutes", type=float, default=115.0)
    return guarded(lambda: study(parser.parse_args()))


def written_at(out_dir: str) -> int | None:
    """Return the time at which a sweep last wrote its table; None if there is none."""
    file = Path(out_dir, collection.FILE)
    return file.stat().st_mtime_ns if file.exists() else None


def study(flags: argparse.Namespace) -> int:
    """Run the parts in order until the time is over; return 1 if a cell failed."""
    code, end = 0, time.monotonic() + 60 * flags.minutes
    wanted = (s for part in flags.parts for s in sweeps(part, flags.seeds, flags.rows))
    for pieces in wanted:
        known = known_rows(flags.rows).keys()
        pieces = [piece for piece in pieces if not piece.cells() <= known]
        if not pieces:
            continue
        if time.monotonic() > end:
            print("time is over: the same command goes on from here")
            break
        output = OutputConfig(out_dir=flags.out_dir, keep="none")
        config = BlocksConfig.of([replace(piece.config, output=output) for piece in pieces])
        before = written_at(flags.out_dir)
        try:
            code = max(code, run(config))
        finally:
            # A sweep that never began has left the table of the one before.
            if written_at(flags.out_dir) != before:
                for piece in pieces:
                    add_rows(flags.rows, piece.rows(flags.out_dir))
    known = known_rows(flags.rows)
    if known:
        found = by_line(known)
        print(f"{table(choice_lines(known))}\n\n{table(found)}")
        replace_file(drawn(found).encode(), flags.figure)
        print(f"figure  {flags.figure}")
    return code


if __name__ == "__main__":
    sys.exit(main())
