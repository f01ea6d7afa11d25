// The plot: panels with their axes, labels at the ends of lines, and Plotly's call. It changes no number.

// Named one by one, because plotly.js would also offer to upload the chart to its maker.
const BUTTONS = [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
const MOST_PANELS = 12;

/** Panels of the figure: one, or one for each value of the dimension that splits it. */
function panelsOf(view, among) {
  const lines = shownLines();
  const name = view.facets ? state.facet : "";
  if (!name || !dimension(name)) return [{ title: "", lines, among, boards: shownBoards() }];
  const values = dimension(name).values.map(({ value }) => value).filter((value) => !isHidden(name, value));
  return values.slice(0, MOST_PANELS).map((value) => {
    const mine = (line) => line.at[name] === value || (line.control && !SINGLE.includes(name));
    const ids = new Set(among.filter(mine).map((line) => line.board));
    return {
      title: value, lines: lines.filter(mine), among: among.filter(mine),
      boards: shownBoards().filter(({ id }) => ids.has(id)),
    };
  }).filter((panel) => panel.among.some((line) => !line.control));
}

/** Traces and layout of the chosen view; `saved` is for a file, dark on white with a title. */
function drawing(saved = false, size = null) {
  const view = VIEWS[state.view];
  const among = shownLines(true);
  const panels = panelsOf(view, among);
  const places = positions(among);
  const ink = inkOf(saved);
  const grid = panelGrid(Math.max(1, panels.length));
  const data = [];
  const box = size ?? { width: byId("plot").clientWidth || 900, height: byId("plot").clientHeight || 420 };
  const ends = view.ends && !narrow() && panels.length === 1;
  const layout = baseLayout(ink, box, ends, saved);
  const drawn = panels.map((panel) => {
    const traces = view.traces(panel.lines, panel.among, places);
    if (view.references) traces.unshift(...referenceTraces(panel, places));
    return { ...panel, traces, lane: view.lane ? view.lane(panel.lines, panel.among, places) : [] };
  });
  const range = view.y === null ? heights(drawn.flatMap(({ traces }) => traces), shownBoards()) : null;
  const lanes = drawn.some(({ lane }) => lane.length); // All panels leave room for it, so that their axes agree.
  const shared = { view, ink, places, range, lanes, data, layout, box, ends };
  drawn.forEach((panel, i) => addPanel({ panel, i, grid: grid[i], ...shared }));
  if (!data.some((trace) => trace.y?.some((v) => v !== null))) {
    const text = nothingIn(view).map(markup).join("<br>");
    layout.annotations.push({ text, xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false });
  }
  return { data, layout, panels: panels.length };
}

function baseLayout(ink, box, labels, saved) {
  const right = labels ? Math.min(240, box.width * 0.24) : 14;
  return {
    font: ink.font, paper_bgcolor: saved ? "#ffffff" : "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    hovermode: "closest", showlegend: false, annotations: [], shapes: [], autosize: !saved,
    dragmode: narrow() && !saved ? false : "zoom",
    hoverlabel: { align: "left", bgcolor: ink.raised, bordercolor: ink.edge, font: ink.font },
    modebar: { color: ink.quiet, activecolor: ink.ink, bgcolor: "rgba(0,0,0,0)" },
    margin: { l: 66, r: right, t: saved ? 52 : 28, b: 44 },
    ...(saved ? { title: { text: markup(figureTitle()), x: 0.02, font: { ...ink.font, size: 15 } } } : {}),
  };
}

/** Title of a saved figure: what it shows, and of which model and text. */
function figureTitle() {
  const boards = shownBoards();
  const unique = (name) => [...new Set(boards.map((board) => board[name]))].filter(Boolean);
  const of = [...unique("sweep"), unique("model").slice(0, 3).join(", "), unique("text").slice(0, 2).join(", ")];
  return `${VIEWS[state.view].label}: ${of.filter(Boolean).join(" · ")}`;
}

/** Adds the axes, traces and labels of one panel. */
function addPanel({ view, panel, i, grid, ink, places, range, lanes, data, layout, box, ends }) {
  const suffix = i ? i + 1 : "";
  const lane = lanes ? Math.min(0.09, 36 / (box.height * (grid.y[1] - grid.y[0]))) : 0;
  const top = grid.y[1] - (grid.y[1] - grid.y[0]) * lane;
  const rule = { gridcolor: ink.grid, linecolor: ink.edge, zeroline: false, automargin: true };
  const zoom = zoomed();
  const own = view.y ?? (state.y === "ratio" ? "perplexity to dense (×)" : "perplexity");
  const x = {
    ...rule, anchor: `y${suffix}`, domain: grid.x, title: { text: grid.last ? view.x : "" },
    ...horizontal(view, panel, places), ...(i ? { matches: "x" } : zoom ? { range: zoom.slice(0, 2) } : {}),
  };
  const y = {
    ...rule, anchor: `x${suffix}`, domain: [grid.y[0], top - (lane ? 0.01 : 0)], title: { text: grid.first ? own : "" },
    showticklabels: grid.first, range: undefined, ...vertical(view, range),
    ...(i ? { matches: "y" } : zoom ? { range: zoom.slice(2) } : {}),
  };
  layout[`xaxis${suffix}`] = x;
  layout[`yaxis${suffix}`] = y;
  data.push(...panel.traces.map((trace) => ({ ...trace, xaxis: `x${suffix}`, yaxis: `y${suffix}` })));
  if (panel.title) layout.annotations.push(words(panel.title, { x: grid.x[0], y: grid.y[1], yanchor: "bottom" }));
  if (lane) addLane({ panel, i, grid, top, data, layout, suffix });
  if (ends && y.range) layout.annotations.push(...endLabels(panel, x, y, box, layout));
}

const PAPER = { xref: "paper", yref: "paper", showarrow: false, xanchor: "left" };
const words = (text, more) => ({ ...PAPER, text: markup(text), ...more });

/** A lane of its own above a panel for cells that have no value. */
function addLane({ panel, i, grid, top, data, layout, suffix }) {
  const number = 50 + i;
  const high = Math.max(...panel.lane.flatMap((trace) => trace.y), 1);
  const more = { visible: false, fixedrange: true, anchor: `x${suffix}` };
  layout[`yaxis${number}`] = { domain: [top, grid.y[1]], range: [high + 0.6, -0.6], ...more };
  data.push(...panel.lane.map((trace) => ({ ...trace, xaxis: `x${suffix}`, yaxis: `y${number}` })));
  const middle = { x: grid.x[0], y: (top + grid.y[1]) / 2, xanchor: "right", yanchor: "middle", xshift: -4 };
  if (grid.first) layout.annotations.push(words("no value", middle));
}

/** The horizontal axis: targets have a tick each, measures a log scale with labels. */
function horizontal(view, panel, places) {
  if (view.x === "sparsity") {
    const sorted = [...places].sort((a, b) => a[1] - b[1]);
    const near = sorted.length > 1 ? (sorted.at(-1)[1] - sorted[0][1]) * 0.03 : 0.05;
    const range = sorted.length ? [sorted[0][1] - near, sorted.at(-1)[1] + near] : undefined;
    // Points that only a search has asked for have no tick: they would cover each other.
    const named = sorted.filter(([name]) => page.data.boards.some(({ targets }) => targets.includes(name)));
    return { tickvals: named.map(([, at]) => at), ticktext: named.map(([name]) => markup(name)), range };
  }
  if (!view.log) return view.x === "block" ? { tickformat: "d", nticks: 12 } : { rangemode: "tozero" };
  const values = panel.traces.flatMap((trace) => trace.x).filter((v) => finite(v) && v > 0);
  if (!values.length) return { type: "log" };
  const [low, high] = [Math.min(...values) / 1.15, Math.max(...values) * (view.wide ? 1.6 : 1.15)];
  return { type: "log", range: [Math.log10(low), Math.log10(high)], ...logTicks(low, high) };
}

function vertical(view, range) {
  if (view.y === "matrix") return { type: "category", autorange: "reversed" };
  if (view.y !== null || !range) return {};
  const ticks = logTicks(range[0], range[1], state.y === "ratio" ? "×" : "");
  return { type: "log", range: range.map(Math.log10), ...ticks };
}

/** Names at the right ends of lines, moved apart so that none covers another; a click picks the line. */
function endLabels(panel, x, y, box, layout) {
  const plot = box.height - layout.margin.t - layout.margin.b;
  const [low, high] = y.range;
  const share = (height) => y.domain[0] + (y.domain[1] - y.domain[0]) * ((height - low) / (high - low));
  const pixels = (height) => (1 - share(height)) * plot;
  const found = [];
  for (const line of panel.lines) {
    const points = line.points.filter((p) => finite(heightOf(p)) && !p.target.includes(":"));
    const structured = line.points.filter((p) => finite(heightOf(p)) && p.target.includes(":"));
    const end = endOf(points, high) ?? endOf(structured, high);
    if (end && isPicked(line)) found.push({ line, at: pixels(end.height), x: end.x });
  }
  found.sort((a, b) => a.at - b.at || a.x - b.x);
  const gap = Math.min(16, plot / Math.max(1, found.length));
  found.forEach((each, i) => { each.at = Math.max(each.at, i ? found[i - 1].at + gap : -8); });
  for (let i = found.length - 1, most = plot; i >= 0; i -= 1, most -= gap) found[i].at = Math.min(found[i].at, most);
  const place = (at) => ({ x: x.domain[1], y: 1 - at / plot, xshift: 6, yanchor: "middle", captureevents: true });
  return found.map(({ line, at }) => ({
    ...words(nameOf(line, panel.among), place(at)),
    font: { color: lookOf(line).color, size: 12 }, name: `line ${line.id}`,
  }));
}

/** Where a line ends, or leaves the range upwards: its height as a logarithm, and its place along the axis. */
function endOf(points, high) {
  const logs = points.map((p) => Math.log10(heightOf(p)));
  const over = logs.findIndex((height) => height > high);
  if (over < 0) return points.length ? { height: logs.at(-1), x: points.at(-1).x } : null;
  if (!over) return null;
  const part = (high - logs[over - 1]) / (logs[over] - logs[over - 1]);
  return { height: high, x: points[over - 1].x + part * (points[over].x - points[over - 1].x) };
}

function drawPlot() {
  const { data, layout, panels } = drawing();
  const config = { responsive: true, displaylogo: false, modeBarButtons: BUTTONS, plotlyServerURL: "" };
  Plotly.react("plot", data, layout, config).then(reachButtons);
  listenToPlot();
  askDetails();
  const view = VIEWS[state.view];
  const among = shownLines(true);
  const board = chosenBoard();
  const left_out = view.facets && state.facet && dimension(state.facet)?.values.length > MOST_PANELS;
  const more = left_out ? ` The first ${panels} are drawn.` : "";
  const hint = "Click a line to see it alone, with Shift to add another and compare.";
  byId("caption").textContent = board ? `${view.caption(shownLines(), among)}${more} ${hint}` : "No rows yet.";
  if (byId("numbers").open) drawNumbers();
}

/** Gives Plotly's buttons, made for the mouse, a name, a place in the tab order, and Enter. */
function reachButtons() {
  for (const made of document.querySelectorAll("#plot .modebar-btn")) {
    const control = /** @type {HTMLElement} */ (made);
    Object.assign(control, { tabIndex: 0, role: "button", ariaLabel: control.dataset.title });
    control.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      control.click();
    };
  }
}
