"""The answer and the heat table of each board as HTML, which needs no script to be read.

The page's scripts only show one board and hide the others. All text from rows is escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from html import escape as escaped

from orchestrator.page.drawn import Shown, line_id
from orchestrator.page.palette import color_of
from orchestrator.page.picture import look_of, picture
from orchestrator.results.answer import (
    SHOWN,
    TOLERANCES,
    finding,
    start_column,
    tolerance_words,
    within,
)
from orchestrator.results.board import Board, Line
from orchestrator.results.found import KEY as KEY_OF_SEARCH
from orchestrator.results.found import (
    found_lines,
    found_notes,
    found_table,
    found_within,
    ratios_of,
)
from orchestrator.results.names import in_words
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.points import Point

SHADES = (1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Ratios to dense at which the next darker shade begins."""
MANY_BOARDS = 12
"""Boards from which only the first ones have a static picture."""
NO_PICTURE = (
    f'<p class="static key">Only the first {MANY_BOARDS} have a picture without scripts; '
    "--export draws all.</p>"
)


def board_html(shown: Shown, number: int) -> str:
    """Return the answer, the heat table and the static picture of one board."""
    board = shown.board
    title = f"{board.model} on {board.evaluation}"
    start = board.targets[start_column(board)].label if board.targets else ""
    return (
        f'<section class="board" data-board="{shown.id}" data-start="{escaped(start)}" '
        f'aria-label="{escaped(title)}">\n<h2 class="of">{escaped(title)}</h2>\n'
        f'<div class="answer">{searched(board)}{answers(board)}{findings(board)}</div>\n'
        f"{heat_table(shown)}{picture(board) if number < MANY_BOARDS else NO_PICTURE}</section>\n"
    )


def searched(board: Board) -> str:
    """Return the answers of a search, or nothing: a line for each ratio, and the table of all.

    `answers` has the lines of ratios that a reader sees first.
    """
    table = found_table(board)
    if not table:
        return ""
    told = [line for r, line in zip(ratios_of(board), found_lines(board)) if r not in SHOWN]
    lines = "".join(f'<p class="found">{escaped(line)}</p>' for line in told)
    head, *rest = (
        "".join(f"<t{kind}>{escaped(text)}</t{kind}>" for text in texts)
        for kind, texts in [("h", table[0]), *(("d", line) for line in table[1:])]
    )
    body = "".join(f"<tr>{cells}</tr>" for cells in rest)
    notes = escaped(" ".join([KEY_OF_SEARCH, *found_notes(board)]))
    return (
        f'{lines}<details class="search"><summary>All answers of the search</summary><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{notes}</p></details>"
    )


def answers(board: Board) -> str:
    """Return one line for each tolerance; the two of `SHOWN` are seen first.

    Where a search has looked for a tolerance, its answer is the finer one.
    """
    lines, found = [], ratios_of(board)
    for tolerance in TOLERANCES:
        hidden = "" if tolerance in SHOWN else " hidden"
        told = (found_within if tolerance in found else within)(board, tolerance)
        lines.append(
            f'<p class="within" data-tolerance="{tolerance:g}"{hidden}><strong>'
            f"Within {tolerance_words(tolerance)}:</strong> {escaped(told)}</p>"
        )
    return "".join(lines)


def with_flags(words: str) -> str:
    """Return escaped words in which no line breaks at the hyphens of a flag."""
    return re.sub(r"--[a-z][\w.-]*", r'<span class="flag">\g<0></span>', escaped(words))


def findings(board: Board) -> str:
    """Return the sentences about each target; those of the starting target are seen first."""
    start, parts = (start_column(board) if board.targets else -1), []
    for column, target in enumerate(board.targets):
        told = finding(board, column)
        hidden = "" if column == start else " hidden"
        notes = " ".join(told.notes)
        more = f"<details><summary>More on this</summary><p>{escaped(notes)}</p></details>"
        parts.append(
            f'<div class="finding" data-target="{escaped(target.label)}"{hidden}><p>'
            f"{escaped(told.best)} <strong>{with_flags(told.certainty)}</strong> "
            f"{escaped(told.lost)}</p>{more if notes else ''}</div>"
        )
    return "".join(parts)


def heat_table(shown: Shown) -> str:
    """Return the table of all cells: numbers, shades by their ratio to dense, marks."""
    board = shown.board
    if not board.lines:
        return ""
    dense = board.dense_perplexity
    told = f"dense {format_perplexity(dense)}" if dense else "dense not known"
    head = "".join(
        f'<th scope="col"><button type="button" data-at="{escaped(t.label)}" '
        f'title="Say more of {escaped(in_words(t))}">{escaped(t.label)}</button></th>'
        for t in board.targets
    )
    lines = "".join(line_html(shown, number, line) for number, line in enumerate(board.lines))
    return (
        f'<div class="scroll heat" tabindex="0" role="region" aria-label="Perplexities of all '
        f'cells"><table><thead><tr><th scope="col">{told}</th>{head}</tr></thead>'
        f'<tbody>{lines}</tbody></table></div><p class="key">{KEY}</p>\n'
    )


KEY = (
    "Perplexity ± deviation (seeds). Shade: ratio to dense. Outline: the best, and all that seeds "
    "cannot tell from it (dashed: the lowest of one seed). !: seeds are lacking, never the best."
)


def line_html(shown: Shown, number: int, line: Line) -> str:
    """Return one line of the heat table."""
    cells = "".join(cell_html(shown.board, number, i) for i in range(len(shown.board.targets)))
    return (
        f'<tr data-line="{line_id(shown, line)}"><th scope="row"><button type="button" '
        f'data-pick="{line_id(shown, line)}" title="Show this alone; with Shift, add it">'
        f"{swatch(line)}{escaped(line.name)}</button></th>{cells}</tr>"
    )


def swatch(line: Line) -> str:
    """Return a short stroke in the colour and dash of a line."""
    look = f'stroke="{color_of(line.method)}" stroke-dasharray="{look_of(line)}"'
    return (
        '<svg class="swatch" width="26" height="8" aria-hidden="true"><line x1="0" x2="26" y1="4" '
        f'y2="4" stroke-width="3" {look}/>'
        "</svg>"
    )


def cell_html(board: Board, number: int, column: int) -> str:
    """Return one cell of the heat table; a reader opens it by its button."""
    point = board.lines[number].cells[column]
    if point is None:
        return "<td></td>"
    kinds = " ".join(kinds_of(board, number, column, point))
    target = escaped(board.targets[column].label)
    return (
        f'<td class="{kinds}"><button type="button" data-cell="{target}">'
        f"{escaped(cell_text(point))}</button></td>"
    )


def kinds_of(board: Board, number: int, column: int, point: Point) -> Iterable[str]:
    """Return the classes of a cell: its shade and its marks."""
    dense = board.dense_perplexity
    if point.perplexity is not None and dense:
        ratio = point.perplexity / dense
        yield f"h{sum(ratio >= shade for shade in SHADES) if math.isfinite(ratio) else 9}"
    if not point.is_whole:
        yield "part" if point.perplexity is not None else "lost"
    if board.is_best(number, column):
        unsure = board.standings[column].certainty == "unknown"
        yield "lowest" if unsure else "best"


def cell_text(point: Point) -> str:
    """Return `28.1 ± 0.3 (3)`, `49.0 ! (1 of 3)`, or why there is no number."""
    if point.perplexity is None:
        return {"non-finite": "not finite"}.get(point.status, point.status.replace("_", " "))
    text = format_perplexity(point.perplexity, point.std).replace("±", " ± ")
    if point.missing:
        return f"{text} ! ({point.num_seeds} of {point.num_seeds + len(point.missing)})"
    return f"{text} ({point.num_seeds})" if point.num_seeds > 1 else text


def tolerance_choices() -> str:
    """Return the options of the control of the tolerance."""
    return "".join(
        f'<option value="{t:g}"{" selected" if t == SHOWN[0] else ""}>{tolerance_words(t)}</option>'
        for t in TOLERANCES
    )
