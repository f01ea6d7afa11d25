"""Curves -> figure -> page: the only file that knows Plotly. It draws and decides nothing.

Place in the flow: ... -> row -> Parquet -> curve -> **figure**. What belongs on one curve is
decided in `points.py`, the page is `page.py`. Nothing here needs Ray: a sweep redraws anywhere.
"""

from __future__ import annotations

import html
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from orchestrator.page.palette import DASHES, GREY, SYMBOLS, TROUBLE_SYMBOLS, color_of
from orchestrator.results.curves import Curve, Evaluation, label_of
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.points import TROUBLES, Point
from orchestrator.results.published import Published

LOG_FROM = 20
"""Ratio of the largest to the smallest perplexity from which the scale starts as logarithmic."""
Trace = dict[str, Any]
MAX_STRIP = 8
"""Most marks above each other in the strip of cells without a perplexity."""


def figure(curves: Sequence[Curve], published: Iterable[Published] = ()) -> go.Figure:
    """Draws perplexity over sparsity.

    Every facet (a model on an evaluation) has its traces, of which the first facet's are visible;
    `layout.meta["facets"]` and each trace's `meta` name what the page's choosers choose from. Text
    from rows is escaped: Plotly would take it for markup.

    Args:
        curves: From `curves_from_rows`.
        published: Other people's values, drawn where model, text and windows are the same.
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
    """The traces of one facet and how many marks stand above each other in its strip."""
    targets = {p.sparsity for c in curves if c.method != "dense" for p in c.points}
    span = sorted(targets | ({0.0, 1.0} if len(targets) < 2 else set()))
    values = [value for value in published if value.compares(*curves[0].facet)]
    traces: list[Trace] = []
    stacked: Counter[float] = Counter()
    named: set[tuple[str, str]] = set()
    for curve in curves:
        if curve.regime == "dense":
            traces += _dense_line(curve, span, values)
        else:
            label = label_of(curve, curves)
            line = {**_line(curve), "name": _markup([label])}
            line["meta"] = {**line["meta"], "label": label}
            traces += _band(curve)
            traces.append({**line, "showlegend": (curve.method, label) not in named})
            named.add((curve.method, label))
        traces += _trouble_marks(curve, stacked, span[0])
    return traces + _published_marks(values), min(MAX_STRIP, max(stacked.values(), default=0))


def _markup(lines: Iterable[str]) -> str:
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def _trace(kind: str, method: str, regime: str, **drawn: Any) -> Trace:
    """A trace with what the page needs to know of it; `drawn` is Plotly's."""
    return {
        "type": "scatter",
        "meta": {"kind": kind, "method": method, "regime": regime},
        "legendgroup": method,
        "legendgrouptitle": {"text": _markup([method])},
        "hovertemplate": "%{hovertext}<extra></extra>",
        **drawn,
    }


def _told(points: Iterable[Point], more: Iterable[str] = ()) -> dict[str, Any]:
    """What hovering over points says, and the rows that the page links them to."""
    points = list(points)
    return {
        "hovertext": [_markup([*p.story, *more]) for p in points],
        "customdata": [list(p.rows) for p in points],
    }


def _line(curve: Curve) -> Trace:
    color, symbol = color_of(curve.method), SYMBOLS.get(curve.regime, "star")
    kind, mode, dash = "curve", "lines+markers", DASHES.get(curve.regime, "dashdot")
    if curve.is_control:
        kind, mode, dash = "control", "lines", "dot"
    drawn: dict[str, Any] = {"marker": {"color": color, "size": 7, "symbol": symbol}}
    if curve.structure:
        mode, rim = "markers+text", {"color": "white", "width": 1.5}
        drawn["marker"] |= {"size": 12, "symbol": f"{symbol}-dot", "line": rim}
        drawn |= {"text": [_markup([curve.structure])], "textposition": "middle right"}
    if curve.structure or len(curve.points) == 1:  # where there is no line to put a band around
        drawn["error_y"] = {"array": [p.std for p in curve.points], "color": color}
    return _trace(
        kind,
        curve.method,
        curve.regime,
        x=[p.sparsity for p in curve.points],
        y=[p.perplexity for p in curve.points],
        mode=mode,
        line={"color": color, "width": 2, "dash": dash},
        **drawn,
        **_told(curve.points),
    )


def _band(curve: Curve) -> list[Trace]:
    """Mean ± standard deviation, a polygon for each unbroken run of points with several seeds."""
    if curve.structure or len(curve.points) < 2:
        return []
    xs: list[float | None] = []
    ys: list[float | None] = []
    run: list[tuple[float, float, float]] = []
    for point in (*curve.points, None):
        if point and point.perplexity is not None and point.std is not None:
            low = max(point.perplexity - point.std, 1.0)  # no perplexity is lower, nor log of one
            run.append((point.sparsity, low, point.perplexity + point.std))
            continue
        if len(run) > 1:
            xs += [x for x, _, _ in run] + [x for x, _, _ in reversed(run)] + [None]
            ys += [high for _, _, high in run] + [low for _, low, _ in reversed(run)] + [None]
        run = []
    drawn: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "fill": "toself"}
    drawn |= {"fillcolor": color_of(curve.method), "opacity": 0.18, "showlegend": False}
    drawn |= {"hoverinfo": "skip", "hovertemplate": None}
    return [_trace("band", curve.method, curve.regime, x=xs[:-1], y=ys[:-1], **drawn)] * bool(xs)


def _dense_line(curve: Curve, span: list[float], published: list[Published]) -> list[Trace]:
    told = [f"published {v.perplexity:g} ({v.source})" for v in published if v.method == "dense"]
    return [
        _trace(
            "dense",
            "dense",
            "dense",
            x=span,
            y=[point.perplexity] * len(span),
            mode="lines",
            line={"color": GREY, "width": 2},
            name=format_perplexity(point.perplexity),
            **_told([point] * len(span), told),
        )
        for point in curve.points
        if point.perplexity is not None
    ]


def _trouble_marks(curve: Curve, stacked: Counter[float], low: float) -> list[Trace]:
    """Cells without a perplexity, in the strip above the plot; they stack at their sparsity."""
    points = [p for p in curve.points if p.status != "done"]
    xs = [max(p.sparsity, low) for p in points]
    heights = []
    for x in xs:
        heights.append(stacked[x] % MAX_STRIP + 0.5)
        stacked[x] += 1
    color = color_of(curve.method)
    marker = {
        "symbol": [TROUBLE_SYMBOLS[TROUBLES.index(p.status)] for p in points],
        "color": color,
        "size": 9,
        "line": {"width": 2, "color": color},
    }
    drawn = {"mode": "markers", "marker": marker, "showlegend": False, **_told(points)}
    trace = _trace("trouble", curve.method, curve.regime, x=xs, y=heights, yaxis="y2", **drawn)
    return [trace] * bool(points)


def _published_marks(published: Iterable[Published]) -> list[Trace]:
    by_method: dict[str, list[Published]] = defaultdict(list)
    for value in published:
        by_method[value.method].append(value)
    return [
        _trace(
            "published",
            method,
            "oneshot",
            x=[v.sparsity for v in values],
            y=[v.perplexity for v in values],
            mode="markers",
            marker={
                "symbol": ["circle-open" + "-dot" * bool(v.mask_structure) for v in values],
                "color": color_of(method),
                "size": 12,
            },
            hovertext=[_markup(v.story()) for v in values],
            name="published",
            showlegend=False,
        )
        for method, values in by_method.items()
        if method != "dense"
    ]


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
        # A key and no more: what is shown is chosen by the page's boxes, which tables follow too.
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
