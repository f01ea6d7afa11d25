"use strict";
// Points of the drawing that the choosers let be seen, and the rows behind them.

const finite = (value) => typeof value === "number" && Number.isFinite(value);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const narrow = () => window.innerWidth < 700;

/** Mean and sample standard deviation of a function over rows; values that are not finite are left out. */
function spread(rows, read) {
  const values = rows.map(read).filter(finite);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const squares = values.reduce((a, b) => a + (b - mean) ** 2, 0);
  return { n: values.length, mean, std: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null };
}

/** True if the choosers let a trace be seen. */
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
      points.push({ trace, x, y: trace.y[i], rows, target, hover: trace.hovertext[i], keys: trace.customdata[i] });
    });
  }
  return points;
}
