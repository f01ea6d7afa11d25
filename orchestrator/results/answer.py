"""The answer in words: how far a model can be pruned within a tolerance, and how sure that is.

Every sentence is made from a board, so the page and the terminal say the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.results.board import Board
from orchestrator.results.names import in_words
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.points import Point
from orchestrator.results.verdict import Lead, compare, seeds_of

TOLERANCES = (1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Ratios to the dense model's perplexity that a reader chooses from."""
SHOWN = (1.1, 2.0)
"""Tolerances of the two lines that stand first."""
START = 0.7
"""Methods part most near this sparsity, so a page begins there."""


def tolerance_words(ratio: float) -> str:
    """Return `10 % of dense`, or `2×` of it."""
    return f"{ratio:g}×" if ratio >= 2 else f"{ratio - 1:.0%} of dense".replace("%", " %")


def percent(part: float) -> str:
    """Return a difference as `4.1 %`, without a sign."""
    return f"{abs(part) * 100:.{1 if abs(part) < 0.0995 else 0}f} %"


def answer(board: Board, tolerance: float) -> str:
    """Return one line: a tolerance, and what lies within it."""
    return f"Within {tolerance_words(tolerance)}: {within(board, tolerance)}"


def within(board: Board, tolerance: float) -> str:
    """Return the highest target that costs no more than a tolerance, and how sure that is.

    A cell that lacks a seed does not count. Structures count where there is no sparsity at all.
    """
    dense = board.dense_perplexity
    if dense is None or board.dense is None:
        return "not known, the dense model has no perplexity yet."
    found = [i for i in range(len(board.targets)) if ratio_at(board, i) <= tolerance]
    plain = [i for i in found if board.targets[i].mask_structure is None]
    column = max(plain or found, key=lambda i: board.targets[i].order, default=None)
    if column is None:
        return nothing_within(board)
    best = board.lines[board.standings[column].best or 0].cells[column]
    assert best is not None
    names = ", ".join([best_names(board, column), certainty_within(best, dense, tolerance)])
    structures = [board.targets[i].label for i in found if i not in plain and plain]
    also = f"; {' and '.join(structures)} too" if structures else ""
    return f"{aim(board, column)} ({names}){also}."


def aim(board: Board, column: int) -> str:
    """Return a target as the answer names it: `50 % sparsity` or `2:4`."""
    target = board.targets[column]
    return target.mask_structure or f"{target.sparsity * 100:.4g} % sparsity"


def ratio_at(board: Board, column: int) -> float:
    """Return the best whole cell's ratio to dense; infinity where no cell is whole."""
    best, dense = board.standings[column].best, board.dense_perplexity
    point = None if best is None else board.lines[best].cells[column]
    return point.perplexity / dense if point and point.perplexity and dense else float("inf")


def nothing_within(board: Board) -> str:
    """Say what the gentlest target costs, when all cost more than the tolerance."""
    if not board.targets:
        return "no pruned cell yet."
    least = min(range(len(board.targets)), key=lambda i: ratio_at(board, i))
    ratio = ratio_at(board, least)
    if ratio == float("inf"):
        return "no whole cell yet."
    return f"no target of this sweep; {aim(board, least)} costs {percent(ratio - 1)}."


def certainty_within(point: Point, dense: float, tolerance: float) -> str:
    """Say on how many seeds a cell is within a tolerance, and if these leave a doubt."""
    seeds = seeds_of(point)
    if set(seeds) == {None}:
        return "no seed plays a part"
    lead = compare(seeds, {None: dense})
    if lead.high is None:
        return "one seed"
    doubt = "" if lead.high <= tolerance else f", not sure: 95 % reach {lead.high:.2f}×"
    return f"{lead.seeds} seeds{doubt}"


def best_names(board: Board, column: int, most: int = 3) -> str:
    """Name the best of a target and all that seeds cannot tell from it."""
    place = board.standings[column]
    assert place.best is not None
    same = [i for i in place.equals if place.leads[i].word == "same"]
    alike = [i for i in place.equals if i not in same]
    names = [" = ".join(board.lines[i].name for i in (place.best, *same))]
    names += [board.lines[i].name for i in alike]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return " or ".join(names[:most] + more)


def answer_lines(board: Board) -> list[str]:
    """Return the two lines that a terminal ends with."""
    return [answer(board, tolerance) for tolerance in SHOWN]


def start_column(board: Board) -> int:
    """Return the target that a reader sees first: that near 0.7 where methods part most."""
    targets = enumerate(board.targets)
    return min(
        targets, key=lambda i: (i[1].mask_structure is not None, abs(i[1].sparsity - START))
    )[0]


@dataclass(frozen=True)
class Finding:
    """Sentences about one target: the best cell, how sure that is, and what was left out."""

    best: str
    certainty: str
    lost: str
    """The cells that lack a seed or a value and do not count; empty if there are none."""
    notes: tuple[str, ...]
    """Further sentences."""


def finding(board: Board, column: int) -> Finding:
    """Return the sentences about one target."""
    place = board.standings[column]
    notes = (*training_notes(board, column), *fate_notes(board, column))
    lost = not_counted(board, column)
    if place.best is None:
        told = f"At {in_words(board.targets[column])} no cell is whole yet."
        return Finding(told, "", lost, notes)
    point = board.lines[place.best].cells[column]
    assert point is not None and point.perplexity is not None
    dense = board.dense_perplexity
    beside = f", {point.perplexity / dense:.2f}× dense" if dense else ""
    told = f"{format_perplexity(point.perplexity, point.std)} ({seeds_in_words(point)}){beside}"
    name = best_names(board, column, most=1) if not place.equals else best_name(board, column)
    best = f"At {in_words(board.targets[column])}: {name} with {told}."
    return Finding(best, certainty(board, column), lost, notes)


def best_name(board: Board, column: int) -> str:
    """Name the cell with the lowest mean, and those that are the same model."""
    place = board.standings[column]
    assert place.best is not None
    same = [i for i in place.equals if place.leads[i].word == "same"]
    return " = ".join(board.lines[i].name for i in (place.best, *same))


def seeds_in_words(point: Point) -> str:
    """Return `3 seeds`, `one seed`, or that none plays a part."""
    if {seed for seed, _ in point.values} == {None}:
        return "no seed plays a part"
    return "one seed" if point.num_seeds == 1 else f"{point.num_seeds} seeds"


def certainty(board: Board, column: int) -> str:
    """Say if the best of a target leads all others, by the rule of `verdict.compare`."""
    place = board.standings[column]
    others = [i for i in place.order[1:] if place.leads[i].word != "same"]
    if not others:
        return "No other whole cell to compare it with."
    told = f"{board.lines[others[0]].name} is next, {percent(1 / place.leads[others[0]].ratio - 1)}"
    if place.certainty == "unknown":
        return f"No claim: {told} higher, but one seed tells no spread; add --seeds 0 1 2."
    level = [i for i in others if i in place.equals]
    if not level:
        return f"Clear: {told} higher ({interval(place.leads[others[0]])})."
    names = [board.lines[i].name for i in level]
    told = " or ".join(names[:3] + ([f"{len(names) - 3} more"] if len(names) > 3 else []))
    return f"Not sure: seeds cannot tell it from {told} ({interval(place.leads[level[0]])})."


def interval(lead: Lead) -> str:
    """Return the 95 % interval of how much higher the second is than the first."""
    if lead.low is None or lead.high is None or lead.basis == "exact":
        return "no seed plays a part"
    ends = (1 / lead.high - 1, 1 / lead.low - 1)
    low, high = (f"{'−' if end < 0 else '+'}{percent(end)}" for end in ends)
    return f"95 %: {low} to {high}, {lead.seeds} {SEEDS_OF[lead.basis]}"


SEEDS_OF = {
    "paired": "common seeds",
    "welch": "seeds each, none in common",
    "fixed": "seeds against a value that no seed changes",
}
"""Words for the seeds behind an interval, by its basis."""


def training_notes(board: Board, column: int) -> list[str]:
    """Say what a lead may owe to more training, and what training does to the dense model."""
    place, dense = board.standings[column], board.dense_perplexity
    cells = board.column(column)
    first = None if place.best is None else cells[place.best]
    if first is None or not first.tokens:
        return []
    notes = []
    following = next(iter(place.order[1:]), None)
    second = None if following is None else cells[following]
    if following is not None and second and second.tokens < first.tokens:
        name = board.lines[following].name
        trained = f"{first.tokens:,.0f} against {second.tokens:,.0f} tokens"
        notes.append(f"It trained on more than {name}: {trained}.")
    bare = next((i for i in place.order if not _tokens(cells[i])), None)
    if bare is not None:
        point = cells[bare]
        assert point is not None and point.perplexity is not None
        value = format_perplexity(point.perplexity, point.std)
        notes.append(f"Best without training: {board.lines[bare].name} with {value}.")
    control = next((one.cells[column] for one in board.lines if one.is_control), None)
    if control and control.is_whole and dense and control.perplexity:
        lead = compare(seeds_of(control), {None: dense})
        change = f"{format_perplexity(dense)} to {format_perplexity(control.perplexity)}"
        notes.append(f"The same training takes the dense model from {change}: {ADAPTS[lead.word]}.")
    return notes


def _tokens(point: Point | None) -> float:
    return point.tokens if point else 0.0


ADAPTS = {
    "leads": "part of what training wins back is adaptation to the text",
    "level": "seeds cannot tell if any of it is adaptation to the text",
    "same": "seeds cannot tell if any of it is adaptation to the text",
    "trails": "none of what training wins back is adaptation to the text",
    "unknown": "one seed cannot tell if any of it is adaptation to the text",
}
"""Meaning of a trained dense model's lead over the dense model."""


def not_counted(board: Board, column: int) -> str:
    """Say which cells do not count at a target; empty if all do."""
    lost = []
    for line in board.lines:
        point = line.cells[column]
        if point is not None and not point.is_whole and not line.is_control:
            lost.append(f"{line.name} ({shortfall(point)})")
    return f"Not counted: {'; '.join(lost)}." if lost else ""


def fate_notes(board: Board, column: int) -> list[str]:
    """Say if the best of a target was lost at the next one."""
    place = board.standings[column]
    if place.best is None or column + 1 >= len(board.targets):
        return []
    following = board.lines[place.best].cells[column + 1]
    if following is not None and following.status not in ("done", "not_run"):
        target = in_words(board.targets[column + 1])
        return [f"{board.lines[place.best].name} {_status(following)} at {target}."]
    return []


def shortfall(point: Point) -> str:
    """Say what a cell lacks to be whole: `49.0 on 1 of 3 seeds, failed`, or `failed`."""
    if point.perplexity is None:
        return _status(point)
    count = f"on {point.num_seeds} of {point.num_seeds + len(point.missing)} seeds"
    reason = "the others not there yet" if point.status == "done" else _status(point)
    return f"{format_perplexity(point.perplexity)} {count}, {reason}"


def _status(point: Point) -> str:
    words = {"non-finite": "is not finite", "stopped": "was stopped", "not_run": "was not run"}
    return words.get(point.status, point.status)
