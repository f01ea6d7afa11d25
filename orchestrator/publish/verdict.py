"""Verdicts of presets: finished rows against a paper's table, or against a paper's claims.

`cli.main` calls a verdict after the sweep. It prints, and returns the exit code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.config import SweepConfig
from orchestrator.publish.comparison import (
    STANDARD_ERRORS,
    borrowed_spread,
    compare,
    comparison_table,
)
from orchestrator.results.numbers import format_perplexity, mean_and_std
from orchestrator.results.parquet import read_rows
from orchestrator.results.published import load_published, published_model
from orchestrator.results.record import recorded_models
from orchestrator.results.schema import Row
from orchestrator.store.store import Store


def rows_of(config: SweepConfig) -> list[Row]:
    """Return the rows of the sweep that has just ended."""
    store = Store(config.output.out_dir)
    rows = read_rows(store.files.join("results.parquet"), store.files.filesystem)
    return [row for row in rows if row["in_current_grid"]]


def models_of(config: SweepConfig) -> dict[str, str | None]:
    """Return the name that papers use for each model of the sweep; None if they do not know it."""
    # Imported here: presets import this module before they parse flags, and torch takes a second.
    from orchestrator.inputs.models import resolve_inputs

    models = resolve_inputs(config, recorded_models(Store(config.output.out_dir)))
    return {one.inputs.name: published_model(one.source, one.facts) for one in models}


def against_tables(*sources: str) -> Callable[[SweepConfig], int]:
    """Return the verdict that compares with these papers; the first that has a value gives it.

    The exit code is 0 if every judged value is within its bound. It is 1 if one is not, and also if
    nothing is judged, because a run that met no published value has reproduced none.
    """
    papers = " and the ".join(sources)

    def verdict(config: SweepConfig) -> int:
        models, table = models_of(config), load_published()
        found = compare(rows_of(config), models, table, sources)
        say_unknown(models, {v.model for v in table if v.source in sources}, f"the {papers}")
        if not found:
            print(f"nothing was judged: the {papers} report on no cell here")
            return 1
        print(f"\nOur values beside the {papers}. Bounds come from the spread over seeds that")
        print("papers print; those of dense and magnitude, which draw nothing, were chosen here")
        print("(orchestrator/publish/comparison.py).")
        print(comparison_table(found))
        judged = [one for one in found if one.excuse is None]
        if not judged:
            print("nothing was judged, so nothing is reproduced")
            return 1
        within = sum(one.verdict == "within" for one in judged)
        print(f"{within} of {len(judged)} judged values within their bounds")
        return 0 if within == len(judged) else 1

    return verdict


def say_unknown(models: Mapping[str, str | None], reported: Collection[str], who: str) -> None:
    """Name the models that nobody reports on, so that silence does not look like agreement."""
    for name, known in models.items():
        if known is None:
            print(f"{name}: papers report on no model of these sizes")
        elif known not in reported:
            print(f"{name}: {who} say nothing about {known}")


# Claims -------------------------------------------------------------------------------------------

Curve = tuple[str, str]
"""Method and regime."""


@dataclass(frozen=True)
class Claim:
    """A paper's claim that beyond some sparsity one curve lies below others."""

    model: str
    best: Curve
    others: tuple[Curve, ...]
    beyond: float
    """The claim is on sparsities above this one."""
    up_to: float = 1.0
    """The greatest sparsity that this claim is checked at."""


def against_claims(claims: Sequence[Claim], note: str) -> Callable[[SweepConfig], int]:
    """Return the verdict that checks each claim at every sparsity of the sweep that it is about.

    A difference of two means below three standard errors is not judged. The standard deviation is
    that over our seeds. With one seed it is the largest that papers print near that sparsity.

    Args:
        claims: the paper's claims.
        note: a text that is printed first.

    Returns:
        A verdict with exit code 0 if a claim holds and none fails; else 1, also if none is judged.
    """

    def verdict(config: SweepConfig) -> int:
        models, rows = models_of(config), rows_of(config)
        say_unknown(models, {claim.model for claim in claims}, "these claims")
        print(f"\n{note}")
        words: list[str] = []
        for claim in claims:
            for name in [name for name, known in models.items() if known == claim.model]:
                judged, lines = judge_claim(claim, [row for row in rows if row["model"] == name])
                words += judged
                print("\n".join(lines))
        if not {HOLDS, FAILS} & {*words}:
            print("nothing was judged, so nothing is reproduced")
        return 0 if HOLDS in words and FAILS not in words else 1

    return verdict


HOLDS, FAILS, UNCLEAR = "holds", "does NOT hold", "not judged: within the spread over seeds"


def judge_claim(claim: Claim, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return the verdict on a claim at each sparsity, as words and as lines to print."""
    points: dict[tuple[str, str, float], list[float]] = {}
    for row in rows:
        if row["status"] == "done" and row["mask_structure"] is None:
            key = (row["method"], row["regime"], row["sparsity"])
            points.setdefault(key, []).append(row["perplexity"])
    title = f"{claim.model}: {' '.join(claim.best)} is below"
    meant = [s for *_, s in points if claim.beyond + 1e-9 < s <= claim.up_to + 1e-9]
    words, lines = [], []
    for sparsity in sorted(set(meant)):
        best = points.get((*claim.best, sparsity))
        for other in claim.others:
            found = points.get((*other, sparsity))
            if best is None or found is None:
                continue
            mean, rival = fmean(best), fmean(found)
            variances = [deviation(v, sparsity) ** 2 / len(v) for v in (best, found)]
            word = HOLDS if mean < rival else FAILS
            if abs(mean - rival) <= STANDARD_ERRORS * math.sqrt(sum(variances)):
                word = UNCLEAR
            words.append(word)
            numbers = f"{format_perplexity(mean)} against {format_perplexity(rival)}"
            lines.append(f"{title} {' '.join(other)} at {sparsity:g}: {numbers}: {word}")
    if not lines:
        lines = [f"{title} others beyond {claim.beyond:g}: no cells to compare"]
    return words, lines


def deviation(values: Sequence[float], sparsity: float) -> float:
    """Return the standard deviation over our seeds; of one seed, the one that papers suggest."""
    mean, own = fmean(values), mean_and_std(values)[1]
    if own is not None or not math.isfinite(mean):
        return own or 0.0  # Infinity is above everything, with or without a spread.
    return mean * borrowed_spread(None, sparsity, load_published())
