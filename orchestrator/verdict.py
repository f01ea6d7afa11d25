"""Verdicts of presets: finished rows against a paper's table, or against what a paper claims.

Called after the sweep by `cli.main`; prints, and gives the exit code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from orchestrator.comparison import STANDARD_ERRORS, compare, comparison_table, mean_of_seeds
from orchestrator.config import SweepConfig
from orchestrator.inputs import resolve_one
from orchestrator.published import load_published, published_model
from orchestrator.results import Row, format_perplexity, mean_and_std, read_rows
from orchestrator.store import Store


def rows_of(config: SweepConfig) -> list[Row]:
    """The rows of the sweep that has just been collected."""
    store = Store(config.output.out_dir)
    remote = None if store.is_local else store.filesystem
    rows = read_rows(store.join("results.parquet"), remote)
    return [row for row in rows if row["in_current_grid"]]


def models_of(config: SweepConfig) -> dict[str, str | None]:
    """Which published model each model of the sweep is; None for one that papers do not know."""
    found = {}
    for name in config.grid.models:
        one = resolve_one(config, name, torch.device("cpu"))
        found[name] = published_model(one.source, one.facts)
    return found


def against_tables(*sources: str) -> Callable[[SweepConfig], int]:
    """The verdict that compares with values of these papers, the first that has one."""

    def verdict(config: SweepConfig) -> int:
        models = models_of(config)
        found = compare(rows_of(config), models, load_published(), sources)
        say_unknown(models)
        if not found:
            print(f"nothing to compare: the {' and the '.join(sources)} report on no cell here")
            return 0
        print(
            f"\nagainst the {' and the '.join(sources)}; the bound comes from the spread over seeds"
        )
        print("that papers print, as orchestrator/comparison.py says")
        print(comparison_table(found))
        outside = sum(one.verdict == "OUTSIDE" for one in found)
        judged = sum(one.excuse is None for one in found)
        print(f"{judged - outside} of {judged} judged values within the published spread")
        return 1 if outside else 0

    return verdict


def say_unknown(models: Mapping[str, str | None]) -> None:
    """Names the models that no paper reports on, so that silence is not taken for agreement."""
    for name, known in models.items():
        if known is None:
            print(f"{name}: by the sizes in its config no model that papers report on")


# Claims -------------------------------------------------------------------------------------------

Curve = tuple[str, str]
"""Method and regime."""


@dataclass(frozen=True)
class Claim:
    """A paper says that from some sparsity on one curve lies below others."""

    model: str
    best: Curve
    others: tuple[Curve, ...]
    beyond: float
    """Greater sparsities are meant, this one not."""


def against_claims(claims: Sequence[Claim]) -> Callable[[SweepConfig], int]:
    """The verdict that looks whether each claim holds at every sparsity it speaks of.

    No spread is published for any of them: a difference below three standard errors of our own
    seeds is not judged, and with one seed any difference counts.
    """

    def verdict(config: SweepConfig) -> int:
        models, rows, code = models_of(config), rows_of(config), 0
        say_unknown(models)
        print("\nagainst what the paper claims (it prints no table):")
        for claim in claims:
            for name in [name for name, known in models.items() if known == claim.model]:
                held, lines = judge_claim(claim, [row for row in rows if row["model"] == name])
                code |= not held
                print("\n".join(lines))
        return code

    return verdict


def judge_claim(claim: Claim, rows: Sequence[Row]) -> tuple[bool, list[str]]:
    """Whether a claim holds, and a line a sparsity."""
    points: dict[tuple[str, str, float], list[float]] = {}
    for row in rows:
        if row["status"] == "done" and row["mask_structure"] is None:
            key = (row["method"], row["regime"], row["sparsity"])
            points.setdefault(key, []).append(row["perplexity"])
    held = True
    title = f"{claim.model}: {' '.join(claim.best)} is below"
    lines = []
    for sparsity in sorted({key[2] for key in points if key[2] > claim.beyond + 1e-9}):
        best = points.get((*claim.best, sparsity))
        others = {other: points.get((*other, sparsity)) for other in claim.others}
        for other, found in others.items():
            if best is None or found is None:
                continue
            mean, rival = mean_of_seeds(best), mean_of_seeds(found)
            stds = ((mean_and_std(values)[1] or 0.0, len(values)) for values in (best, found))
            noise = STANDARD_ERRORS * sum(std**2 / count for std, count in stds) ** 0.5
            word = "holds" if mean < rival else "does NOT hold"
            if abs(mean - rival) <= noise:
                word = "not judged: within the spread of our seeds"
            held &= word != "does NOT hold"
            numbers = f"{format_perplexity(mean)} against {format_perplexity(rival)}"
            lines.append(f"{title} {' '.join(other)} at {sparsity:g}: {numbers}: {word}")
    if not lines:
        lines = [f"{title} others beyond {claim.beyond:g}: no cells to tell from"]
    return held, lines
