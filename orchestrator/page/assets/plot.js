"use strict";
// The plot: which traces of the drawing are shown, in which view. It changes no number.

const VIEWS = {
  sparsity: { title: "sparsity", y: "perplexity" },
  tokens: { title: "training tokens", y: "perplexity", fields: ["num_finetune_tokens"], type: "linear" },
  seconds: { title: "seconds to prune and train", y: "perplexity", fields: ["prune_seconds", "finetune_seconds"], type: "log" },
  front: { title: "sparsity", y: "perplexity" },
  errors: { title: "block", y: "relative output error", layers: true },
  zeros: { title: "block", y: "measured sparsity", field: "sparsity", layers: true },
  losses: { title: "training tokens", y: "training loss (nats a token)", type: "linear" },
};
// Named one by one: what plotly.js offers by itself includes uploading the chart to its maker.
const BUTTONS = [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
const POINTS = new Set(["curve", "control", "dense", "trouble"]);
const finite = (value) => typeof value === "number" && Number.isFinite(value);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const narrow = () => window.innerWidth < 700;

/** Mean and sample standard deviation of a function over rows; nulls and non-finite left out. */
function spread(rows, read) {
  const values = rows.map(read).filter(finite);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const squares = values.reduce((a, b) => a + (b - mean) ** 2, 0);
  return { n: values.length, mean, std: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null };
}

/** Whether the choosers let a trace be seen. */
function isShown(trace, state) {
  const { kind, facet, method, regime } = trace.meta;
  if (facet !== state.facet) return false;
  if (method === "dense") return kind === "dense" || !state.hidden.has("reference:control");
  if (kind === "published") return !state.hidden.has("reference:published") && !state.hidden.has(`method:${method}`);
  return !state.hidden.has(`method:${method}`) && !state.hidden.has(`regime:${regime}`);
}

const markup = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("\n", "<br>");
const targetOf = (row) => row.mask_structure ?? String(Number(row.sparsity.toFixed(6)));

/** The points of the shown curves of a facet, or of all its curves, each with its rows. */
function shownPoints(page, all = false) {
  const points = [];
  for (const trace of page.data.drawing.data) {
    const seen = all ? trace.meta.facet === page.state.facet : isShown(trace, page.state);
    if (trace.meta.kind !== "curve" || !seen) continue;
    trace.x.forEach((x, i) => {
      if (!finite(trace.y[i])) return;
      const rows = trace.customdata[i].map((key) => page.rowOf.get(key));
      const target = targetOf(rows[0]);
      points.push({ trace, i, x, y: trace.y[i], rows, target, hover: trace.hovertext[i], keys: trace.customdata[i] });
    });
  }
  return points;
}

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

/** Perplexity at one target against what it cost: a line per method, marks by regime. */
function costTraces(page, view) {
  const cost = (rows) => VIEWS[view].fields.reduce((sum, field) => sum + (spread(rows, (row) => row[field]).mean || 0), 0);
  const groups = new Map();
  for (const point of shownPoints(page)) {
    if (point.target !== page.state.target) continue;
    const name = point.trace.meta.method;
    groups.set(name, [...(groups.get(name) ?? []), { ...point, cost: cost(point.rows) }]);
  }
  const traces = [...groups.values()].map((points) => {
    points.sort((a, b) => a.cost - b.cost);
    const { legendgrouptitle, line } = points[0].trace;
    const more = { name: legendgrouptitle.text, mode: "lines+markers", line: { color: line.color, width: 1 } };
    return marks(points, (p) => p.cost, more);
  });
  return view === "tokens" ? [...traces, ...controlTraces(page, cost)] : traces;
}

/** The dense model against its training tokens, from none on. */
function controlTraces(page, cost) {
  const points = new Map();
  for (const trace of page.data.drawing.data) {
    if (!["dense", "control"].includes(trace.meta.kind) || !isShown(trace, page.state)) continue;
    trace.customdata.forEach((keys, i) => {
      const point = { y: trace.y[i], hover: trace.hovertext[i], keys, trace: { line: trace.line, marker: {} } };
      point.cost = cost(keys.map((key) => page.rowOf.get(key)));
      if (finite(point.y)) points.set(point.cost, point);
    });
  }
  const sorted = [...points.values()].sort((a, b) => a.cost - b.cost);
  if (!sorted.length) return [];
  const grey = sorted[0].trace.line.color;
  const more = { name: "dense", mode: "lines+markers", line: { color: grey, dash: "dot", width: 2 }, marker: { color: grey, symbol: "circle", size: 5 } };
  return [marks(sorted, (p) => p.cost, more)];
}

/** All points, those in front joined: none has both more zeros and a lower perplexity. */
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

/** A ring around the chosen row's point. */
function ring(traces, key) {
  const found = { x: [], y: [], yaxis: "y" };
  for (const trace of traces) {
    if (!POINTS.has(trace.meta.kind) || found.x.length) continue;
    const i = (trace.customdata ?? []).findIndex((keys) => keys.includes(key));
    if (i >= 0 && finite(trace.y[i])) Object.assign(found, { x: [trace.x[i]], y: [trace.y[i]], yaxis: trace.yaxis ?? "y" });
  }
  const marker = { symbol: "circle-open", size: 20, color: color("--ink"), line: { width: 2.5 } };
  return { ...found, type: "scatter", mode: "markers", marker, hoverinfo: "skip", showlegend: false, meta: { kind: "ring" } };
}

const NOTHING = {
  errors: "No errors recorded here: magnitude looks at no inputs, and older stores have none",
  zeros: "No sparsities by matrix recorded here: older stores have none",
  losses: "Nothing was trained here, or an older store recorded no losses",
};

function layoutFor(page, traces, kinds) {
  const { state, data } = page;
  const given = data.drawing.layout;
  const view = VIEWS[state.view];
  const lines = { gridcolor: color("--grid"), linecolor: color("--edge"), tickcolor: color("--edge") };
  const empty = !traces.some((trace) => trace.yaxis !== "y2" && trace.y.some(finite));
  const strip = state.view === "sparsity" && traces.some((trace) => trace.yaxis === "y2");
  const font = { color: color("--ink"), family: "system-ui, sans-serif", size: narrow() ? 11 : 13 };
  const layout = {
    ...given,
    autosize: true,
    font,
    hoverlabel: { ...given.hoverlabel, bgcolor: color("--raised"), bordercolor: color("--edge"), font },
    modebar: { color: color("--quiet"), activecolor: color("--accent"), bgcolor: "rgba(0,0,0,0)" },
    dragmode: narrow() ? false : "zoom",
    showlegend: state.view !== "front" && (!narrow() || ["errors", "zeros", "losses"].includes(state.view)),
    legend: { ...given.legend, ...(narrow() || view.layers ? { orientation: "h", y: -0.14, yanchor: "top" } : {}) },
    margin: narrow() ? { l: 46, r: 6, t: view.layers ? 48 : 30, b: 40 } : { l: 64, r: 12, t: 30, b: 48 },
    xaxis: { ...given.xaxis, ...lines, title: { text: view.title }, type: view.type ?? "linear", visible: !empty || strip },
    yaxis: { ...given.yaxis, ...lines, title: { text: view.y }, type: scaleOf(state), domain: strip ? given.yaxis.domain : [0, 1], visible: !empty },
    annotations: empty ? [{ text: NOTHING[state.view] ?? "No perplexity yet for this choice", xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false, font: { size: narrow() ? 11 : 15 } }] : [],
    uirevision: [state.facet, state.view, scaleOf(state), state.target].join(),
  };
  if (!view.layers || empty) return layout;
  const { axes, annotations } = panels(kinds, view.y);
  delete layout.yaxis2;
  for (const [name, axis] of Object.entries(axes)) layout[name] = { ...layout[name.slice(0, 5)], ...axis };
  return { ...layout, annotations };
}

/** One label for each N:M, at its highest point: those of all methods would cover each other. */
function sparselyLabelled(traces) {
  const highest = new Map();
  for (const trace of traces) {
    const label = trace.text?.[0];
    if (label && finite(trace.y[0]) && !(highest.get(label)?.y[0] > trace.y[0])) highest.set(label, trace);
  }
  return traces.map((trace) => ({ ...trace, visible: true, mode: trace.text && highest.get(trace.text[0]) !== trace ? "markers" : trace.mode }));
}

/** The scale of the view's axis: perplexity's is the reader's or the range's, the others have their own. */
function scaleOf({ view, scales }) {
  return scales[VIEWS[view].y] ?? (view === "errors" ? "log" : "linear");
}

function drawPlot(page) {
  const { state } = page;
  let traces;
  let kinds = [];
  if (state.view === "front") traces = frontTraces(page);
  else if (VIEWS[state.view].layers) ({ traces, kinds } = layerTraces(page, VIEWS[state.view].field ?? "errors"));
  else if (state.view === "losses") traces = lossTraces(page);
  else if (state.view !== "sparsity") traces = costTraces(page, state.view);
  else traces = sparselyLabelled(page.data.drawing.data.filter((trace) => isShown(trace, state)));
  const layout = layoutFor(page, traces, kinds);
  const config = { responsive: true, displaylogo: false, modeBarButtons: BUTTONS, plotlyServerURL: "", toImageButtonOptions: { format: "svg", filename: "curves" } };
  const shown = VIEWS[state.view].y === "perplexity" ? [...traces, ring(traces, state.chosen)] : traces;
  return Plotly.react("plot", shown, layout, config).then(reachButtons);
}

/** Plotly's buttons are for the mouse alone: gives them a name, a place in the order, and Enter. */
function reachButtons() {
  for (const button of document.querySelectorAll("#plot .modebar-btn")) {
    Object.assign(button, { tabIndex: 0, role: "button", ariaLabel: button.dataset.title });
    button.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      button.click();
    };
  }
}
