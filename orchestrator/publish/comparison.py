"""Our rows beside a paper's table: ours, published, the difference, and whether that is noise.

Place in the flow: rows -> **comparison** -> verdict of a preset. Each difference has a bound. It
comes from the standard deviations over seeds that papers print:

- If the paper prints one for the value, the bound is three standard errors of the difference of the
  two means: `3 std sqrt(1/our seeds + 1/their seeds)`.
- If the method draws calibration samples and the paper prints none, the value borrows the largest
  relative one that is printed for any model and method at the same target, else at the nearest
  sparsity.
- Magnitude pruning and the dense model draw nothing, so only rounding differs: the papers' codes
  evaluate in half precision and print three or four digits. SparseGPT's and SLiM's values agree
  within 0.3 % on OPT-125M, 350M and 2.7B at 0.5. The bounds were chosen here: 1 %, and 0.2 % for
  the dense model. If papers differ more among themselves, that difference is the bound.

A value is not judged if papers that read the text alike contradict each other by more than a fifth,
or if our settings are not the paper's. The table then says why. If no value is judged, nothing is
reproduced, and the exit code says so too.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from core.config import PruneConfig
from core.methods import METHODS
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.published import PUBLISHED_WINDOW, Published
from orchestrator.results.schema import Row

STANDARD_ERRORS = 3.0
BOUND_WITHOUT_DRAWS = {"dense": 0.002, "magnitude": 0.01}
CONTRADICTION = 1.2
"""Two papers whose values differ by more than this factor give no target."""
CALIBRATION_TOKENS = 128 * PUBLISHED_WINDOW
PUBLISHED_DTYPES = ("float16", "float32")
"""The papers' codes load OPT as float16, and float32 rounds less. bfloat16 rounds eight times as
coarsely as float16, which is more than the bound of a dense model."""


@dataclass(frozen=True)
class Comparison:
    """One published value with ours beside it."""

    published: Published
    eval_text: str
    ours: float | None
    """Mean over seeds; None if nothing was computed."""
    num_seeds: int
    bound: float | None
    """Largest difference that seeds explain, in perplexity; None if papers contradict."""
    excuse: str | None
    """Reason why it is not judged; None if it is."""

    @property
    def difference(self) -> float | None:
        """Ours minus published."""
        return None if self.ours is None else self.ours - self.published.perplexity

    @property
    def verdict(self) -> str:
        """Return `within`, `OUTSIDE`, or why neither."""
        if self.excuse is not None:
            return self.excuse
        assert self.difference is not None and self.bound is not None
        return "within" if abs(self.difference) <= self.bound else "OUTSIDE"


def compare(
    rows: Iterable[Row],
    models: Mapping[str, str | None],
    table: Sequence[Published],
    sources: Sequence[str],
) -> list[Comparison]:
    """Return our values beside those of papers, seeds averaged.

    Args:
        rows: those of `results.parquet`; only one-shot and dense rows of the current grid count.
        models: for each model name in rows the name that papers use, or None.
        table: all published values.
        sources: the papers to compare with; the first that has a value gives it.
    """
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["in_current_grid"] and row["regime"] in ("dense", "oneshot"):
            names = ("model", "method", "mask_structure", "sparsity", "eval_text", "protocol")
            groups[tuple(row[name] for name in names)].append(row)
    found = []
    for (model, method, structure, sparsity, text, protocol), group in groups.items():
        setting = (models.get(model), method, structure, sparsity)
        alike = [v for v in table if v.setting == setting and v.read_as(text, protocol)]
        value = next((v for s in sources for v in alike if v.source == s), None)
        if value is not None:
            found.append(_compare_one(value, group, alike, table))
    return found


def _compare_one(
    value: Published, group: list[Row], alike: list[Published], table: Sequence[Published]
) -> Comparison:
    seeds = [r["perplexity"] for r in group if r["status"] == "done"]
    ours = fmean(seeds) if seeds else None  # infinity or NaN of one seed counts
    spread = relative_spread(value, table)
    errors = STANDARD_ERRORS * math.sqrt(1 / max(len(seeds), 1) + 1 / value.num_seeds)
    fixed = BOUND_WITHOUT_DRAWS.get(value.method)
    if fixed is not None:
        fixed = max(fixed, *(abs(v.perplexity / value.perplexity - 1) for v in alike))
    bound = value.perplexity * (fixed if fixed is not None else spread * errors)
    contradicted = [
        v for v in alike if not 1 / CONTRADICTION < v.perplexity / value.perplexity < CONTRADICTION
    ]
    excuse = None
    if ours is None:
        excuse = f"not judged: {group[0]['status'].replace('_', ' ')}"
    elif contradicted:
        other = contradicted[0]
        excuse, bound = f"not judged: {other.perplexity:g} in the {other.source}", None
    else:
        foreign = next(filter(None, map(foreign_setting, group)), None)
        excuse = foreign and f"not judged: {foreign}"
    return Comparison(value, group[0]["eval_text"], ours, len(seeds), bound, excuse)


def relative_spread(value: Published, table: Sequence[Published]) -> float:
    """Return the standard deviation divided by the mean: the value's own, or a borrowed one."""
    if value.std is not None:
        return value.std / value.perplexity
    return borrowed_spread(value.mask_structure, value.sparsity, table)


def borrowed_spread(structure: str | None, sparsity: float, table: Sequence[Published]) -> float:
    """Return the largest relative spread printed at a target, else at the nearest sparsity."""
    known = [v for v in table if v.std is not None]
    same = [v for v in known if (v.mask_structure, v.sparsity) == (structure, sparsity)]
    if not same:
        unstructured = [v for v in known if v.mask_structure is None]
        nearest = min(abs(v.sparsity - sparsity) for v in unstructured)
        same = [v for v in unstructured if abs(v.sparsity - sparsity) <= nearest + 1e-9]
    return max(v.std / v.perplexity for v in same if v.std is not None)


def foreign_setting(row: Row) -> str | None:
    """Return the flag of a setting that no paper used; None if all settings are a paper's."""
    config = json.loads(row["config"])
    if (row["eval_seq_len"], row["eval_stride"]) != (PUBLISHED_WINDOW, PUBLISHED_WINDOW):
        return f"--eval.seq-len {row['eval_seq_len']}"
    if config["eval"]["max_windows"] is not None:
        return f"--eval.max-windows {config['eval']['max_windows']}"
    if row["dtype"] not in PUBLISHED_DTYPES:
        return f"--dtype {row['dtype']}"
    if row["method"] == "dense":
        return None
    usual = PruneConfig().settings(METHODS[row["method"]].fields_read)
    for name, found in json.loads(row["method_settings"]).items():
        if usual.get(name) != found:
            return f"--prune.{name.replace('_', '-')} {found}"
    if row["calibration_text"] is None:
        return None
    if row["calibration_text"] != "c4":
        return f"--calibration.text {row['calibration_text']}"
    if config["calibration"]["sampling"] not in (None, "documents"):
        return f"--calibration.sampling {config['calibration']['sampling']}"
    if row["calibration_seq_len"] != PUBLISHED_WINDOW:
        return f"--calibration.seq-len {row['calibration_seq_len']}"
    if row["calibration_tokens"] != CALIBRATION_TOKENS:
        return f"{row['calibration_tokens']:,} calibration tokens"
    return None


def comparison_table(found: Sequence[Comparison]) -> str:
    """Return a table with one line for each published value."""
    lines = [("model", "text", "method", "target", "ours", "published", "diff", "bound", "")]
    for one in found:
        value, difference = one.published, one.difference
        share = None if difference is None else difference / value.perplexity
        lines.append(
            (
                value.model.rpartition("/")[2],
                one.eval_text,
                value.method,
                "" if value.method == "dense" else value.target.label,
                "-" if one.ours is None else format_perplexity(one.ours),
                f"{value.perplexity:g}",
                "-" if share is None else f"{share:+.1%}",
                "-" if one.bound is None else f"{one.bound / value.perplexity:.1%}",
                one.verdict,
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    columns = list(zip("<<<<>>>><", widths))  # words to the left, numbers to the right
    aligned = [
        "  ".join(f"{text:{side}{width}}" for text, (side, width) in zip(line, columns))
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in aligned)
