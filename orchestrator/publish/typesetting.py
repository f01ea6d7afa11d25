r"""Tables as text: Markdown, LaTeX (needs `\usepackage{booktabs}`) and CSV.

Place in the flow: curves -> table -> **text**. Names from rows never become markup or commands.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.publish.tables import MARK, Table, is_whole
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.points import Point
from orchestrator.results.schema import SCHEMA, Row, sort_key, task_columns_of

CELLS_HEADER = ("model", "evaluation", "method", "regime", "settings", "target")
CELLS_HEADER += ("mean", "std", "seeds", "status", "best")


def text_of(point: Point | None) -> str:
    """A cell as text: `27.66`, `41.2±0.3`, or why there is none."""
    if point is None:
        return "–"
    if point.perplexity is None:
        return {"non-finite": "not finite"}.get(point.status, point.status.replace("_", " "))
    return format_perplexity(point.perplexity, point.std) + MARK * (not is_whole(point))


def markdown(table: Table) -> str:
    """A table of GitHub's Markdown, its caption below."""
    lines = [["", *table.targets]]
    lines.append(["---", *["---:"] * len(table.targets)])
    for line in table.lines:
        cells = [text_of(point) for point in line.cells]
        bold = [f"**{c}**" if table.is_best(line, i) else c for i, c in enumerate(cells)]
        lines.append([markdown_text(line.name), *bold])
    rows = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([*rows, "", markdown_text(table.caption)]) + "\n"


def markdown_text(text: str) -> str:
    """Text in which nothing is markup."""
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
    """Text in which nothing is a command."""
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def latex(table: Table) -> str:
    """A `table` environment with booktabs rules."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(table.caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.targets)}}}",
        r"\toprule",
        " & ".join(["", *map(latex_text, table.targets)]) + r" \\",
        r"\midrule",
    ]
    for line in table.lines:
        cells = [latex_cell(p, table.is_best(line, i)) for i, p in enumerate(line.cells)]
        lines.append(" & ".join([latex_text(line.name), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def latex_cell(point: Point | None, bold: bool) -> str:
    """A number in math mode, a word as text."""
    if point is None or point.perplexity is None or not math.isfinite(point.perplexity):
        return latex_text(text_of(point))
    number = re.sub(r"e([+-])0*(\d+)", lambda m: power(m[1], m[2]), text_of(point))
    number = number.replace("±", r" \pm ")
    return rf"$\mathbf{{{number}}}$" if bold else f"${number}$"


def power(sign: str, digits: str) -> str:
    """An exponent as LaTeX has it."""
    return rf" \cdot 10^{{{sign.strip('+')}{digits}}}"


def cells_csv(tables: Iterable[Table]) -> str:
    """All points of all tables, numbers in full, one line each."""
    lines: list[Sequence[Any]] = [CELLS_HEADER]
    for table in tables:
        for line in table.lines:
            for i, (target, point) in enumerate(zip(table.targets, line.cells)):
                if point is not None:
                    key = (table.model, table.evaluation, line.method, line.regime, line.settings)
                    value = (point.perplexity, point.std, point.num_seeds, point.status)
                    lines.append((*key, target, *value, table.is_best(line, i)))
    return csv_text(lines)


def rows_csv(rows: Iterable[Row]) -> str:
    """Every row with every column of `results.SCHEMA`, then those of tasks."""
    ordered = sorted(rows, key=sort_key)
    columns = [*SCHEMA.names, *task_columns_of(ordered)]
    return csv_text([columns, *([row.get(name) for name in columns] for row in ordered)])


def csv_text(lines: Iterable[Sequence[Any]]) -> str:
    """CSV; a list within a cell is joined by spaces."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for line in lines:
        writer.writerow([" ".join(map(str, v)) if isinstance(v, list) else v for v in line])
    return out.getvalue()
