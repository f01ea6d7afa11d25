r"""Tables as text: Markdown, LaTeX (needs `\usepackage{booktabs}`) and CSV.

Place in the flow: curves -> table -> **text**. pandas writes LaTeX and CSV. It has no Markdown
without a further package, so that is written here. Names from rows never become markup or commands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.publish.tables import MARK, Table
from orchestrator.results.board import Board
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.points import Point
from orchestrator.results.schema import Row, shown_columns_of, sort_key

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters with which a spreadsheet takes a text for a formula and runs it."""
CELLS_HEADER = ("model", "evaluation", "method", "regime", "settings", "target")
CELLS_HEADER += ("mean", "std", "seeds", "status", "best")


def text_of(point: Point | None) -> str:
    """Return a cell as text: `27.66`, `41.2±0.3`, or why there is no number."""
    if point is None:
        return "–"
    if point.perplexity is None:
        return {"non-finite": "not finite"}.get(point.status, point.status.replace("_", " "))
    return format_perplexity(point.perplexity, point.std) + MARK * (not point.is_whole)


def markdown(table: Table) -> str:
    """Return the table in GitHub's Markdown, its caption below."""
    board, lines = table.board, []
    for number, line in enumerate(board.lines):
        cells = [text_of(point) for point in line.cells]
        bold = [f"**{c}**" if board.is_best(number, i) else c for i, c in enumerate(cells)]
        lines.append([markdown_text(line.name.replace(" · ", " ")), *bold])
    rules = ["---", *["---:"] * len(board.targets)]
    drawn = markdown_table([["", *labels_of(board)], rules, *lines])
    return f"{drawn}\n\n{markdown_text(table.caption)}\n"


def labels_of(board: Board) -> list[str]:
    """Return the targets of a board as text."""
    return [target.label for target in board.targets]


def markdown_table(lines: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are Markdown already: the header, the rules, then the rest."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def markdown_text(text: str) -> str:
    """Return text in which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", " ".join(text.split()))


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "–": "--",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def latex_text(text: str) -> str:
    """Return text in which nothing is a command."""
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def latex(table: Table) -> str:
    """Return a `table` environment with booktabs rules."""
    import pandas  # Imported here: it takes half a second, and only an export needs it.

    board = table.board
    columns = {
        latex_text(target): [
            latex_cell(line.cells[i], board.is_best(number, i))
            for number, line in enumerate(board.lines)
        ]
        for i, target in enumerate(labels_of(board))
    }
    names = [latex_text(line.name.replace(" · ", " ")) for line in board.lines]
    frame = pandas.DataFrame(columns, index=names)
    layout = {"hrules": True, "position_float": "centering"}
    layout |= {"column_format": "l" + "r" * len(columns)}
    return frame.style.to_latex(**layout, caption=latex_text(table.caption))


def latex_cell(point: Point | None, bold: bool) -> str:
    """Return a number in math mode, or a word as text."""
    if point is None or point.perplexity is None or not math.isfinite(point.perplexity):
        return latex_text(text_of(point))
    number = re.sub(r"e([+-])0*(\d+)", lambda m: power(m[1], m[2]), text_of(point))
    number = number.replace("±", r" \pm ")
    return rf"$\mathbf{{{number}}}$" if bold else f"${number}$"


def power(sign: str, digits: str) -> str:
    """Return an exponent as LaTeX writes it."""
    return rf" \cdot 10^{{{sign.strip('+')}{digits}}}"


def cells_csv(tables: Iterable[Table]) -> str:
    """Return all points of all tables, numbers in full, one line each."""
    lines: list[Sequence[Any]] = []
    for board in (table.board for table in tables):
        for number, line in enumerate(board.lines):
            for i, (target, point) in enumerate(zip(labels_of(board), line.cells)):
                if point is not None:
                    key = (board.model, board.evaluation, line.method, line.regime, line.settings)
                    value = (point.perplexity, point.std, point.num_seeds, point.status)
                    lines.append((*key, target, *value, board.is_best(number, i)))
    return csv_text(CELLS_HEADER, lines)


def rows_csv(rows: Iterable[Row]) -> str:
    """Return every row with every column of `results.SCHEMA`, then the columns of tasks."""
    ordered = sorted(rows, key=sort_key)
    columns = shown_columns_of(ordered)
    return csv_text(columns, [[row.get(name) for name in columns] for row in ordered])


def csv_text(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Return CSV. Spaces join the items of a list; an absent value is empty, NaN is `nan`."""
    import pandas

    def written(value: Any) -> Any:
        if isinstance(value, list):
            return " ".join(map(str, value))
        if isinstance(value, str) and value.startswith(FORMULA):
            return f"'{value}"
        return "nan" if value != value else value  # pandas would leave NaN empty

    cells = [list(map(written, line)) for line in lines]
    # As objects, whole numbers stay whole in a column where some are absent.
    return pandas.DataFrame(cells, columns=list(columns), dtype=object).to_csv(index=False)
