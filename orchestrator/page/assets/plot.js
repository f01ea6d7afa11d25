// The plot: draws the chosen view with the layout of its axes. It changes no number.

// Named one by one, because plotly.js would also offer to upload the chart to its maker.
const BUTTONS = [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
const POINTS = new Set(["curve", "control", "dense", "trouble"]);

function drawPlot(page) {
  const { state } = page;
  const view = VIEWS[state.view];
  const traces = view.traces(page);
  const layout = layoutFor(page, view, traces);
  const config = { responsive: true, displaylogo: false, modeBarButtons: BUTTONS, plotlyServerURL: "", toImageButtonOptions: { format: "svg", filename: "curves" } };
  const shown = view.y === PERPLEXITY ? [...traces, ring(traces, state.chosen)] : traces;
  return Plotly.react("plot", shown, layout, config).then(reachButtons);
}

/** The scale of the view's axis: the reader's choice, else the view's own; that of perplexity follows its range. */
function scaleOf({ view, scales }) {
  const { title, scale } = VIEWS[view].y;
  return scales[title] ?? scale ?? "linear";
}

function layoutFor(page, view, traces) {
  const { state, data } = page;
  const given = data.drawing.layout;
  const lines = { gridcolor: color("--grid"), linecolor: color("--edge"), tickcolor: color("--edge") };
  const empty = !traces.some((trace) => trace.yaxis !== "y2" && trace.y.some(finite));
  const strip = !view.panels && traces.some((trace) => trace.yaxis === "y2");
  const font = { color: color("--ink"), family: "system-ui, sans-serif", size: narrow() ? 11 : 13 };
  const layout = {
    ...given,
    autosize: true,
    font,
    hoverlabel: { ...given.hoverlabel, bgcolor: color("--raised"), bordercolor: color("--edge"), font },
    modebar: { color: color("--quiet"), activecolor: color("--accent"), bgcolor: "rgba(0,0,0,0)" },
    dragmode: narrow() ? false : "zoom",
    showlegend: view.legend === "always" || (view.legend === "wide" && !narrow()),
    legend: { ...given.legend, ...(narrow() || view.panels ? { orientation: "h", y: -0.14, yanchor: "top" } : {}) },
    margin: narrow() ? { l: 46, r: 6, t: view.panels ? 48 : 30, b: 40 } : { l: 64, r: 12, t: 30, b: 48 },
    xaxis: { ...given.xaxis, ...lines, title: { text: view.x.title }, type: view.x.type ?? "linear", visible: !empty || strip },
    yaxis: { ...given.yaxis, ...lines, title: { text: view.y.title }, type: scaleOf(state), domain: strip ? given.yaxis.domain : [0, 1], visible: !empty },
    annotations: empty ? [{ text: view.nothing, xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false, font: { size: narrow() ? 11 : 15 } }] : [],
    uirevision: [state.facet, state.view, scaleOf(state), state.target].join(),
  };
  if (!view.panels || empty) return layout;
  const { axes, annotations } = panelsOf(view, traces);
  delete layout.yaxis2;
  for (const [name, axis] of Object.entries(axes)) layout[name] = { ...layout[name.slice(0, 5)], ...axis };
  return { ...layout, annotations };
}

/** The axes of panels in their places, and a title above each. */
function panelsOf(view, traces) {
  const names = [...new Set(traces.map((trace) => trace.meta.panel))];
  const most = narrow() ? 2 : names.length > 6 ? 4 : 3;
  const columns = names.length === 4 && !narrow() ? 4 : Math.min(names.length, most);
  const lines = Math.ceil(names.length / columns) || 1;
  const [wide, high] = narrow() ? [0.06, 0.09] : [0.03, 0.14];
  const axes = {};
  const annotations = [];
  names.forEach((name, i) => {
    const suffix = i ? i + 1 : "";
    const [column, line] = [i % columns, Math.floor(i / columns)];
    const from = column * ((1 + wide) / columns);
    const top = 1 - line * ((1 + high) / lines);
    const span = [from, from + (1 + wide) / columns - wide];
    const rise = [Math.max(0, top - ((1 + high) / lines - high)), top];
    const last = i + columns >= names.length;
    axes[`xaxis${suffix}`] = { anchor: `y${suffix}`, domain: span, matches: i ? "x" : undefined, showticklabels: last, title: { text: last ? view.x.title : "" }, dtick: undefined, tickformat: "d" };
    axes[`yaxis${suffix}`] = { anchor: `x${suffix}`, domain: rise, matches: i ? "y" : undefined, showticklabels: column === 0, title: { text: column === 0 && line === 0 ? view.y.title : "" } };
    annotations.push({ text: markup(name), xref: "paper", yref: "paper", x: from, y: top, xanchor: "left", yanchor: "bottom", showarrow: false });
  });
  return { axes, annotations };
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

/** Gives Plotly's buttons, made for the mouse, a name, a place in the tab order, and Enter. */
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
