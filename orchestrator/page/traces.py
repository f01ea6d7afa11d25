"""Traces of one curve, and of published values, as Plotly takes them; nothing is decided here."""

from __future__ import annotations

import html
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from orchestrator.page.palette import DASHES, GREY, SYMBOLS, TROUBLE_SYMBOLS, color_of
from orchestrator.results.curves import Curve
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.points import Point
from orchestrator.results.published import Published

Trace = dict[str, Any]
MAX_STRIP = 8
"""Most marks above each other in the strip of cells without a perplexity."""


def line(curve: Curve, label: str) -> Trace:
    """Return a curve's line, or its marks alone for an N:M structure."""
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
    trace = _trace(
        kind,
        curve.method,
        curve.regime,
        x=[p.sparsity for p in curve.points],
        y=[p.perplexity for p in curve.points],
        mode=mode,
        line={"color": color, "width": 2, "dash": dash},
        name=_markup([label]),
        **drawn,
        **_told(curve.points),
    )
    trace["meta"]["label"] = label
    return trace


def band(curve: Curve) -> list[Trace]:
    """Return mean ± standard deviation, a polygon for each unbroken run of points with seeds."""
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


def dense_line(curve: Curve, span: list[float], published: Iterable[Published]) -> list[Trace]:
    """Return the dense model's perplexity as a level line over the sparsities of `span`."""
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


def trouble_marks(curve: Curve, stacked: Counter[float], low: float) -> list[Trace]:
    """Return marks for cells without a perplexity, in the strip above the plot.

    Args:
        curve: The curve of the cells.
        stacked: Marks at each sparsity so far; it is counted up, so that marks do not cover others.
        low: Lowest sparsity of the plot.
    """
    points = [p for p in curve.points if p.status != "done"]
    xs = [max(p.sparsity, low) for p in points]
    heights = []
    for x in xs:
        heights.append(stacked[x] % MAX_STRIP + 0.5)
        stacked[x] += 1
    color = color_of(curve.method)
    marker = {
        "symbol": [TROUBLE_SYMBOLS[p.status] for p in points],
        "color": color,
        "size": 9,
        "line": {"width": 2, "color": color},
    }
    drawn = {"mode": "markers", "marker": marker, "showlegend": False, **_told(points)}
    trace = _trace("trouble", curve.method, curve.regime, x=xs, y=heights, yaxis="y2", **drawn)
    return [trace] * bool(points)


def published_marks(published: Iterable[Published]) -> list[Trace]:
    """Return hollow marks for published values, one trace for each method."""
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


def _markup(lines: Iterable[str]) -> str:
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def _trace(kind: str, method: str, regime: str, **drawn: Any) -> Trace:
    """Return a trace with the facts that the page needs of it; `drawn` is Plotly's."""
    return {
        "type": "scatter",
        "meta": {"kind": kind, "method": method, "regime": regime},
        "legendgroup": method,
        "legendgrouptitle": {"text": _markup([method])},
        "hovertemplate": "%{hovertext}<extra></extra>",
        **drawn,
    }


def _told(points: Iterable[Point], more: Iterable[str] = ()) -> dict[str, Any]:
    """Return the texts that hovering over points shows, and the rows that the page links to."""
    points = list(points)
    return {
        "hovertext": [_markup([*p.story, *more]) for p in points],
        "customdata": [list(p.rows) for p in points],
    }
