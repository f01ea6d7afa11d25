"""Curves -> Plotly figure of perplexity over sparsity: which traces it has, and its layout."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from orchestrator.page import traces as draw
from orchestrator.page.traces import MAX_STRIP, Trace
from orchestrator.results.curves import Curve, Evaluation, label_of
from orchestrator.results.published import Published

LOG_FROM = 20
"""Ratio of the largest to the smallest perplexity from which the scale starts as logarithmic."""


def figure(curves: Sequence[Curve], published: Iterable[Published] = ()) -> go.Figure:
    """Draw perplexity over sparsity.

    Every facet (a model on an evaluation) has its traces; those of the first facet are visible.
    `layout.meta["facets"]` and each trace's `meta` name what the page's choosers choose from. Text
    from rows is escaped, because Plotly would take it for markup.

    Args:
        curves: From `curves_from_rows`.
        published: Values of papers, drawn where model, text and windows are the same.
    """
    published = list(published)
    facets: dict[tuple[str, Evaluation], list[Curve]] = defaultdict(list)
    for curve in curves:
        facets[curve.facet].append(curve)
    traces: list[Trace] = []
    summaries, strip = [], 0
    for number, ((model, evaluation), members) in enumerate(facets.items()):
        drawn, height = _facet_traces(members, published)
        for trace in drawn:
            traces.append({**trace, "visible": number == 0})
            traces[-1]["meta"] = {**trace["meta"], "facet": number}
        strip = max(strip, height)
        log = _wants_log(members)
        summaries.append({"model": model, "evaluation": str(evaluation), "log": log})
    return go.Figure(traces, _layout(summaries, strip))


def _facet_traces(curves: list[Curve], published: list[Published]) -> tuple[list[Trace], int]:
    """Return the traces of one facet, and how many marks stand above each other in its strip."""
    targets = {p.sparsity for c in curves if c.method != "dense" for p in c.points}
    span = sorted(targets | ({0.0, 1.0} if len(targets) < 2 else set()))
    methods = {curve.method for curve in curves}
    values = [v for v in published if v.method in methods and v.compares(*curves[0].facet)]
    traces: list[Trace] = []
    stacked: Counter[float] = Counter()
    named: set[tuple[str, str]] = set()
    for curve in curves:
        if curve.regime == "dense":
            traces += draw.dense_line(curve, span, values)
        else:
            label = label_of(curve, curves)
            traces += draw.band(curve)
            first = (curve.method, label) not in named
            traces.append({**draw.line(curve, label), "showlegend": first})
            named.add((curve.method, label))
        traces += draw.trouble_marks(curve, stacked, span[0])
    strip = min(MAX_STRIP, max(stacked.values(), default=0))
    return traces + draw.published_marks(values), strip


def _wants_log(curves: Iterable[Curve]) -> bool:
    values = [p.perplexity for c in curves for p in c.points if p.perplexity is not None]
    return bool(values) and max(values) > LOG_FROM * min(values)


def _layout(facets: list[dict[str, Any]], strip: int) -> dict[str, Any]:
    grid = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False, "automargin": True}
    top = 1 - 0.035 * strip
    return {
        "template": "none",
        "meta": {"facets": facets},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "#606060"},
        "margin": {"l": 60, "r": 15, "t": 15, "b": 50},
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        # Legend clicks are off; the page's checkboxes filter plot and tables together.
        "legend": {"itemclick": False, "itemdoubleclick": False, "tracegroupgap": 4},
        "xaxis": {**grid, "title": {"text": "sparsity"}},
        "yaxis": {
            **grid,
            "title": {"text": "perplexity"},
            "domain": [0, top - 0.015 if strip else 1],
            "type": "log" if facets and facets[0]["log"] else "linear",
            "exponentformat": "power",
        },
        "yaxis2": {"domain": [min(top, 0.97), 1], "range": [max(strip, 1), 0]}
        | {"visible": False, "fixedrange": True},
    }
