"""Tables for papers, as pure data: a board of results and a caption that says the protocol.

Place in the flow: curves -> board -> **table** -> text. A number is mean ± sample standard
deviation over seeds. The best of each column, and all that seeds cannot tell from it, is bold. A
mean that leaves out a seed (failed, not finite, not there) is marked and never the best.
`typesetting.py` writes the text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from orchestrator.results.board import Board, make_board
from orchestrator.results.curves import Curve, curves_from_rows
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.schema import Row, key_of

MARK = "!"
"""Stands behind a mean that leaves out a seed."""


@dataclass(frozen=True)
class Table:
    """A model on an evaluation."""

    board: Board
    caption: str


def tables_from_rows(rows: Iterable[Row]) -> list[Table]:
    """Return the tables of the current grid."""
    rows = list(rows)
    by_key = {key_of(row): row for row in rows}
    facets = groupby(curves_from_rows(rows), lambda curve: curve.facet)
    members = [list(curves) for _, curves in facets]
    return [Table(make_board(curves), caption_of(curves, by_key)) for curves in members]


def caption_of(curves: Sequence[Curve], rows: Mapping[str, Row]) -> str:
    """Return the facts that a reader needs to compare with other work."""
    evaluation = curves[0].evaluation
    mine = [rows[key] for curve in curves for point in curve.points for key in point.rows]
    facts = [f"{evaluation.protocol} protocol"]
    if evaluation.seq_len:
        facts.append(f"windows of {evaluation.seq_len:,} tokens")
    if evaluation.stride and evaluation.stride != evaluation.seq_len:
        facts.append(f"stride {evaluation.stride:,}")
    if evaluation.num_tokens:
        facts.append(f"{evaluation.num_tokens:,} tokens evaluated")
    text = [f"Perplexity of {curves[0].model} on {evaluation.text} ({', '.join(facts)})"]
    dense = [p.perplexity for c in curves if c.regime == "dense" for p in c.points]
    if dense and dense[0] is not None:
        text.append(f"dense {format_perplexity(dense[0])}")
    text += [f"calibration: {told}" for told in calibrations(curves)]
    text += trainings(mine)
    seeds = sorted({row["seed"] for row in mine if row.get("seed") is not None})
    if len(seeds) > 1:
        text.append(f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}")
    elif seeds:
        text.append(f"one seed ({seeds[0]})")
    points = [p for c in curves if c.regime != "dense" for p in c.points]
    text.append("lower is better, the best of each column in bold")
    if len(seeds) > 1:
        text[-1] += ", with all that seeds cannot tell from it"
    if any(not p.is_whole and p.perplexity is not None for p in points):
        text.append(f"{MARK} leaves out seeds that failed or are not finite, or are not there yet")
    return "; ".join(text) + "."


def calibrations(curves: Iterable[Curve]) -> list[str]:
    """Return the calibration texts with their sizes."""
    found = {curve.settings.calibration for curve in curves if curve.points}
    told = [f"{c.text}, {c.tokens:,} tokens" for c in found if c.text and c.tokens]
    return sorted(told)


def trainings(rows: Iterable[Row]) -> list[str]:
    """Return the training tokens of each regime that trains, over its cells' whole history."""
    counts: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row["status"] == "done" and row["method"] != "dense" and row.get("num_finetune_tokens"):
            counts[row["regime"]].add(row["num_finetune_tokens"])
    told = []
    for regime, tokens in sorted(counts.items()):
        span = [f"{count:,}" for count in sorted({min(tokens), max(tokens)})]
        told.append(f"{regime}: {' to '.join(span)} training tokens")
    return told
