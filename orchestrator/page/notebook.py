"""A board as a Plotly figure: interactive in notebooks, and for a further change in Python.

Place in the flow: boards -> **figures** -> `NAME.plotly.json` beside the exported tables, which
`plotly.io.read_json` opens.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from orchestrator.page.palette import GREY, look_of
from orchestrator.results.board import Board, Line


def figure_of(board: Board) -> go.Figure:
    """Return perplexity over sparsity on a log axis, a trace for each line and one for dense.

    Error bars are the standard deviation over seeds. N:M structures have markers without a line.
    """
    figure = go.Figure([trace for line in board.lines for trace in traces_of(line)])
    if board.dense_perplexity is not None:
        figure.add_hline(board.dense_perplexity, line={"color": GREY}, annotation_text="dense")
    # Plotly reads text as markup.
    model = board.model.replace("<", "&lt;")
    figure.update_layout(
        template="plotly_white",
        title=f"{model} on {board.evaluation}",
        xaxis_title="sparsity",
        yaxis={"title": "perplexity", "type": "log"},
        hovermode="x",
    )
    return figure


def traces_of(line: Line) -> list[dict[str, Any]]:
    """Return the traces of one line: its sparsities, then its structures, if it has any."""
    looks = [look_of("method", line.method, 0)["color"], look_of("regime", line.regime, 0)]
    found = []
    for structured in (False, True):
        points = [p for p in line.points if p.perplexity and bool(p.mask_structure) == structured]
        if not points:
            continue
        found.append(
            {
                "type": "scatter",
                "name": line.name.replace("<", "&lt;"),
                "mode": "markers" if structured else "lines+markers",
                "x": [point.sparsity for point in points],
                "y": [point.perplexity for point in points],
                "error_y": {"array": [point.std or 0.0 for point in points]},
                "text": [point.target.label for point in points],
                "line": {"color": looks[0], "dash": looks[1]["dash"]},
                "marker": {"symbol": looks[1]["symbol"], "size": 8},
            }
        )
    return found
