"""The answers of a search as tables for a paper: CSV with all numbers, Markdown, LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.publish.typesetting import csv_text, latex_text, markdown_table, markdown_text
from orchestrator.results.board import Board
from orchestrator.results.found import HEAD, KEY, found_notes, found_on, found_table

HEADER = ("model", "evaluation", "method", "regime", "settings", "within", "answer", "sparsity")
HEADER += ("half_width", "low", "high", "seeds", "seeds_std", "searched")
"""`sparsity` is between `low`, within the ratio, and `high`, which is not. `searched` are the
sparsities that the search has measured beside the grid."""


def found_files(boards: Sequence[Board]) -> dict[str, str]:
    """Return the tables by file name; nothing where nothing was searched."""
    boards = [board for board in boards if found_on(board)]
    if not boards:
        return {}
    lines = [line for board in boards for line in csv_lines(board)]
    return {
        "search.csv": csv_text(HEADER, lines),
        "search.md": "\n".join(map(found_markdown, boards)),
        "search.tex": "\n".join(map(found_latex, boards)),
    }


def csv_lines(board: Board) -> list[Sequence[Any]]:
    """Return a line for each answer, numbers in full."""
    lines = []
    for each in found_on(board):
        line, crossing = each.line, each.crossing
        key = (board.model, board.evaluation, line.method, line.regime, line.settings)
        value = (each.ratio, each.text, crossing.value, crossing.half_width, crossing.low)
        seeds = len([seed for seed in crossing.seeds if seed is not None])
        searched = " ".join(f"{sparsity:g}" for sparsity in crossing.asked)
        lines.append((*key, *value, crossing.high, seeds, crossing.spread, searched))
    return lines


def caption_of(board: Board) -> str:
    """Return what a reader needs to know of the table."""
    told = f"{board.model} on {board.evaluation}: {HEAD} a ratio to the dense perplexity. {KEY}"
    return " ".join([told, *found_notes(board)])


def found_markdown(board: Board) -> str:
    """Return the table in GitHub's Markdown, its caption below."""
    head, *lines = [[markdown_text(text) for text in line] for line in found_table(board)]
    rules = ["---", *["---:"] * (len(head) - 1)]
    return f"{markdown_table([head, rules, *lines])}\n\n{markdown_text(caption_of(board))}\n"


def found_latex(board: Board) -> str:
    """Return a `table` environment with booktabs rules."""
    head, *lines = [" & ".join(map(latex_cell, line)) for line in found_table(board)]
    columns = "l" + "r" * (len(found_table(board)[0]) - 1)
    parts = [r"\begin{table}", r"\centering", rf"\caption{{{latex_cell(caption_of(board))}}}"]
    parts += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rf"{head} \\", r"\midrule"]
    parts += [rf"{line} \\" for line in lines]
    return "\n".join([*parts, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def latex_cell(text: str) -> str:
    """Return text for LaTeX, also with the signs of an answer."""
    signs = {"×": r"$\times$", "≥": r"$\ge$", "·": r"$\cdot$"}
    told = latex_text(text)
    for sign, command in signs.items():
        told = told.replace(sign, command)
    return told
