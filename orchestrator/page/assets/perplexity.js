// Traces of the views of perplexity: against sparsity, against cost, and the Pareto front.

/** The figure's own traces; each N:M has one label, at its highest point, so that labels cover no other. */
function sparsityTraces(page) {
  const traces = page.data.drawing.data.filter((trace) => isShown(trace, page.state));
  const highest = new Map();
  for (const trace of traces) {
    const label = trace.text?.[0];
    if (label && finite(trace.y[0]) && !(highest.get(label)?.y[0] > trace.y[0])) highest.set(label, trace);
  }
  return traces.map((trace) => ({ ...trace, visible: true, mode: trace.text && highest.get(trace.text[0]) !== trace ? "markers" : trace.mode }));
}

const DRAWN = [
  ["band", "Band or bar: standard deviation over seeds."],
  ["published", "Hollow: published by others."],
  ["trouble", "Strip on top, cells without a perplexity: × failed, ▲ not finite, ■ stopped, – not run."],
];

/** Explains the marks that occur in the facet. */
function marksExplained(page) {
  const kinds = new Set(page.data.drawing.data.filter((trace) => trace.meta.facet === page.state.facet).map((trace) => trace.meta.kind));
  return DRAWN.filter(([kind]) => kinds.has(kind)).map(([, text]) => text).join(" ");
}

/** Points as one trace of marks, with the colours and symbols of their curves. */
function marks(points, x, more) {
  return {
    type: "scatter",
    mode: "markers",
    x: points.map(x),
    y: points.map((p) => p.y),
    hovertext: points.map((p) => p.hover),
    hovertemplate: "%{hovertext}<extra></extra>",
    customdata: points.map((p) => p.keys),
    meta: { kind: "curve" },
    ...more,
    marker: {
      size: 9,
      color: points.map((p) => p.trace.marker.color),
      symbol: points.map((p) => p.trace.marker.symbol),
      ...more.marker,
    },
  };
}

const TOKENS = ["num_finetune_tokens"];
const SECONDS = ["prune_seconds", "finetune_seconds"];

/** Sum of some columns, each the mean over rows. */
function costOf(rows, columns) {
  return columns.reduce((sum, column) => sum + (spread(rows, (row) => row[column]).mean || 0), 0);
}

/** Perplexity at the chosen target against its cost: a line for each method, marks by regime. */
function costTraces(page, columns) {
  const groups = new Map();
  for (const point of shownPoints(page)) {
    if (point.target !== page.state.target) continue;
    const name = point.trace.meta.method;
    groups.set(name, [...(groups.get(name) ?? []), { ...point, cost: costOf(point.rows, columns) }]);
  }
  return [...groups.values()].map((points) => {
    points.sort((a, b) => a.cost - b.cost);
    const { legendgrouptitle, line } = points[0].trace;
    const more = { name: legendgrouptitle.text, mode: "lines+markers", line: { color: line.color, width: 1 } };
    return marks(points, (p) => p.cost, more);
  });
}

/** The dense model against its training tokens, from none on. */
function controlTraces(page) {
  const points = new Map();
  for (const trace of page.data.drawing.data) {
    if (!["dense", "control"].includes(trace.meta.kind) || !isShown(trace, page.state)) continue;
    trace.customdata.forEach((keys, i) => {
      const point = { y: trace.y[i], hover: trace.hovertext[i], keys, trace: { line: trace.line, marker: {} } };
      point.cost = costOf(keys.map((key) => page.rowOf.get(key)), TOKENS);
      if (finite(point.y)) points.set(point.cost, point);
    });
  }
  const sorted = [...points.values()].sort((a, b) => a.cost - b.cost);
  if (!sorted.length) return [];
  const grey = sorted[0].trace.line.color;
  const more = { name: "dense", mode: "lines+markers", line: { color: grey, dash: "dot", width: 2 }, marker: { color: grey, symbol: "circle", size: 5 } };
  return [marks(sorted, (p) => p.cost, more)];
}

/** All points; a line joins those that no point beats in both zeros and perplexity. */
function frontTraces(page) {
  const points = shownPoints(page).sort((a, b) => b.x - a.x || a.y - b.y);
  const front = [];
  for (const point of points) if (!front.length || point.y < front.at(-1).y) front.push(point);
  const behind = points.filter((point) => !front.includes(point));
  const line = { color: color("--quiet"), width: 1.5, shape: "hv" };
  return [
    marks(behind, (p) => p.x, { name: "behind", marker: { opacity: 0.35, size: 7 } }),
    marks(front, (p) => p.x, { name: "in front", mode: "lines+markers", line, marker: { size: 10 } }),
  ];
}
