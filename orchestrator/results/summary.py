"""The table that closes a sweep, as text for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from core.targets import Target
from orchestrator.results.answer import answer_lines, finding, start_column
from orchestrator.results.board import boards_of
from orchestrator.results.curves import Settings, curves_from_rows
from orchestrator.results.found import found_lines
from orchestrator.results.names import CONTROL, target_of
from orchestrator.results.numbers import format_perplexity, mean_and_std
from orchestrator.results.schema import Row, on_each_line, regime_order, sort_key


class Line(NamedTuple):
    """Facts that set two lines of the table apart."""

    method: str
    regime: str
    settings: Settings


Cells = dict[Line, dict[Target, list[Row]]]
"""Rows of each line by target."""


def summary_table(rows: Iterable[Row], width: int = 79) -> str:
    """Return the perplexities of the current grid as text: a block for each model and evaluation.

    Lines are methods and regimes, columns are targets; wider tables go on in further blocks. Apart
    from the ± of several seeds the text is ASCII, even where names are not.
    """
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    mine = (each for row in rows if row["in_current_grid"] for each in on_each_line(row))
    for row in sorted(mine, key=sort_key):
        names = ("model", "eval_text", "protocol")
        groups[tuple(row[name] for name in names)].append(row)
    blocks = [_model_block(group, width) for group in groups.values()]
    return "\n\n".join(blocks) if blocks else "no cells yet"


def _model_block(rows: list[Row], width: int) -> str:
    dense = [row for row in rows if row["method"] == "dense"]
    title = f"{_ascii(rows[0]['model'])} on {_ascii(rows[0]['eval_text'])}"
    reference = _cell([row for row in dense if row["regime"] == "dense"])
    heading = f"{title} ({_ascii(rows[0]['protocol'])}): perplexity, dense {reference}"
    text = textwrap.wrap(heading, width)
    text += _control_lines([row for row in dense if row["regime"] != "dense"], width)
    lines: Cells = {}
    for row in sorted(rows, key=lambda row: (row["method"], regime_order(row["regime"]))):
        if row["method"] != "dense" and not row.get("searched"):
            line = Line(row["method"], row["regime"], Settings.of_row(row))
            lines.setdefault(line, {}).setdefault(target_of(row), []).append(row)
    order = sorted(
        lines, key=lambda one: (one.method, regime_order(one.regime), one.settings.order)
    )
    table = _table_blocks({line: lines[line] for line in order}, width)
    if any("!" in line for line in table):
        table.append("! the mean leaves out seeds that failed or are not finite")
    return "\n".join(text + table)


def _control_lines(rows: list[Row], width: int) -> list[str]:
    """Return the perplexities of the trained dense model by round, a line for each training."""
    control: dict[Settings, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        control[Settings.of_row(row)][row.get("round") or 0].append(row)
    lines = []
    for settings in sorted(control, key=lambda one: one.order):
        turns = control[settings]
        told = ", ".join(f"{_cell(turns[turn])} (round {turn})" for turn in sorted(turns))
        apart = settings.apart_from(control) if settings.axes else []
        name = " ".join(["dense,", CONTROL, *(f"({each})" for each in apart)])
        lines += textwrap.wrap(_ascii(f"{name}: {told}"), width)
    return lines


def _table_blocks(lines: Cells, width: int) -> list[str]:
    names: dict[Line, str] = {}
    numbers: dict[str, int] = {}
    for line in lines:
        names[line] = _ascii(f"{line.method} {line.regime}")
        alike = [other.settings for other in lines if other[:2] == line[:2]]
        if len(alike) > 1:
            apart = line.settings.apart_from(alike) if line.settings.axes else [line.settings]
            number = numbers.setdefault(", ".join(map(str, apart)), len(numbers) + 1)
            names[line] += f" [{number}]"
    notes = [
        textwrap.shorten(_ascii(f"[{number}] {note}"), width, placeholder=" ...")
        for note, number in numbers.items()
    ]
    first = max(map(len, names.values()), default=0)
    blocks: list[list[str]] = []
    targets = {target for cells in lines.values() for target in cells}
    for target in sorted(targets, key=lambda target: target.order):
        column = [target.label]
        column += [_cell(cells.get(target, [])) for cells in lines.values()]
        size = max(map(len, column)) + 2
        if not blocks or len(blocks[-1][0]) + size > width:
            blocks.append([" " * first, *(name.ljust(first) for name in names.values())])
        blocks[-1] = [line + text.rjust(size) for line, text in zip(blocks[-1], column)]
    return [line for i, block in enumerate(blocks) for line in [""] * bool(i) + block] + notes


def _cell(rows: list[Row]) -> str:
    """Return the text of one target: the mean over its seeds, or why there is none."""
    values = [
        row["perplexity"]
        for row in rows
        if row["status"] == "done" and row.get("perplexity") is not None
    ]
    mean, std = mean_and_std(values)
    if mean is not None:
        complete = len(values) == len(rows) and all(map(math.isfinite, values))
        return format_perplexity(mean, std) + "!" * (not complete)
    if values:
        return str(values[0])
    for status in ("failed", "stopped", "not_run"):
        if any(row["status"] == status for row in rows):
            return status.replace("_", " ")
    return "-"


MOST_ANSWERS = 4
"""Most models and evaluations whose answer a terminal shows; the page has all."""
PLAIN = str.maketrans({"·": "", "×": "x", "−": "-", "≥": ">=", "–": "-"})


def answers(rows: Iterable[Row], width: int = 79) -> str:
    """Return the answer's two lines of each model and evaluation, and how sure the best is."""
    boards = boards_of(curves_from_rows(rows))
    lines: list[str] = []
    for board in boards[:MOST_ANSWERS]:
        if len(boards) > 1:
            lines.append(f"{board.model} on {board.evaluation.text}:")
        lines += found_lines(board) or answer_lines(board)
        if board.targets:
            found = finding(board, start_column(board))
            lines += [" ".join(filter(None, (found.best, found.certainty)))]
    if len(boards) > MOST_ANSWERS:
        lines.append(f"and {len(boards) - MOST_ANSWERS} more models and evaluations on the page")
    told = [" ".join(_ascii(line.translate(PLAIN)).split()) for line in lines]
    return "\n".join(text for line in told for text in _wrapped(line, width))


def _wrapped(line: str, width: int) -> list[str]:
    # Names of settings have hyphens, and stay whole.
    return textwrap.wrap(line, width, subsequent_indent="    ", break_on_hyphens=False)


def _ascii(text: str) -> str:
    return "±".join(ascii(part)[1:-1] for part in text.split("±"))
