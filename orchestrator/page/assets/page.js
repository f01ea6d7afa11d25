// The page: its state, and the links between choosers, plot and tables. `show` may be called again with new data.

const page = {
  data: null,
  state: { model: null, evaluation: null, facet: 0, scaled: null, view: "sparsity", scales: {}, target: null, hidden: new Set(), chosen: null, find: "", status: "", drawn: false, wide: false, sort: { by: null, down: false }, turn: 0, reveal: false },
};
const byId = (id) => document.getElementById(id);

function show(data) {
  page.data = data;
  page.rows = data.rows.map(([key, ...values]) => {
    const row = { key };
    data.columns.forEach((column, i) => (row[column] = values[i]));
    row.haystack = values.filter((value) => value !== null).join(" ").toLowerCase();
    return row;
  });
  page.rowOf = new Map(page.rows.map((row) => [row.key, row]));
  page.facetOf = new Map();
  for (const trace of data.drawing.data) {
    for (const key of (trace.customdata ?? []).flat()) page.facetOf.set(key, trace.meta.facet);
  }
  const focused = focusedAs();
  fillSettings();
  fillProgress();
  fillSweeps();
  fillChoosers();
  drawAll();
  if (focused) document.querySelector(focused)?.focus({ preventScroll: true });
}

/** A selector that finds the focused element again after tables are drawn anew; null if it stays. */
function focusedAs() {
  for (const name of ["key", "sort", "name"]) {
    const value = document.activeElement?.dataset[name];
    if (value !== undefined) return `[data-${name}="${CSS.escape(value)}"]`;
  }
  return null;
}

function fillSettings() {
  const entries = page.data.settings.flatMap(([name, values]) => [element("dt", name), ...(values.length ? values : ["not recorded"]).map((value) => element("dd", value))]);
  byId("settings").replaceChildren(...entries);
}

function drawAll() {
  pressScale();
  drawPlot(page);
  drawAnswer(page);
  drawBest(page);
  drawTable(page);
}

/** Marks a row everywhere; if another facet draws it, the plot goes there. */
function choose(key, reveal) {
  const { state } = page;
  Object.assign(state, { chosen: key, reveal });
  const row = page.rowOf.get(key);
  const facet = page.facetOf.get(key);
  if (facet !== undefined && facet !== state.facet) {
    const { model, evaluation } = page.data.drawing.layout.meta.facets[facet];
    Object.assign(state, { model, evaluation });
    fillChoosers();
  }
  if (facet !== undefined && row.method !== "dense") {
    for (const name of [`method:${row.method}`, `regime:${row.regime}`]) {
      state.hidden.delete(name);
      document.querySelectorAll("fieldset input").forEach((box) => { if (box.dataset.name === name) box.checked = true; });
    }
  }
  const list = byId("chosen").querySelector("dl");
  const told = page.data.columns.filter((column) => row[column] !== null && row[column] !== "");
  list.replaceChildren(...told.flatMap((column) => [element("dt", column.replaceAll("_", " ")), element("dd", Array.isArray(row[column]) ? row[column].join(" ") : String(row[column]))]));
  byId("chosen").hidden = false;
  drawAll();
}

function pressScale() {
  document.querySelectorAll("[data-scale]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.scale === scaleOf(page.state))));
}

function listen() {
  const { state } = page;
  const on = (id, event, act) => byId(id).addEventListener(event, ({ target }) => { act(target); drawAll(); });
  const facets = () => page.data.drawing.layout.meta.facets;
  on("model", "change", ({ value }) => { state.model = value; fillFacet(facets()); });
  on("evaluation", "change", ({ value }) => { state.evaluation = facets()[value].evaluation; fillFacet(facets()); });
  on("view", "change", ({ value }) => { state.view = value; fillView(facets()[state.facet]); });
  on("target", "change", ({ value }) => { state.target = value; });
  for (const id of ["methods", "regimes", "references"]) {
    on(id, "change", ({ checked, dataset }) => { state.hidden[checked ? "delete" : "add"](dataset.name); });
  }
  document.querySelectorAll("[data-scale]").forEach((button) => button.addEventListener("click", () => { state.scales[VIEWS[state.view].y.title] = button.dataset.scale; pressScale(); drawPlot(page); }));
  const onTable = (id, event, act) => byId(id).addEventListener(event, ({ target }) => { act(target); drawTable(page); });
  onTable("find", "input", ({ value }) => { Object.assign(state, { find: value, turn: 0 }); });
  onTable("status", "change", ({ value }) => { Object.assign(state, { status: value, turn: 0 }); });
  onTable("drawn", "change", ({ checked }) => { Object.assign(state, { drawn: checked, turn: 0 }); });
  onTable("wide", "change", ({ checked }) => { state.wide = checked; });
  onTable("previous", "click", () => { state.turn -= 1; });
  onTable("next", "click", () => { state.turn += 1; });
  byId("svg").addEventListener("click", () => Plotly.downloadImage("plot", { format: "svg", filename: "curves", width: 1000, height: 600 }));
  byId("csv").addEventListener("click", () => downloadCsv(page));
  byId("rows").addEventListener("click", ({ target }) => onRows(target));
  byId("rows").addEventListener("keydown", onRowKey);
  byId("plot").on("plotly_click", ({ points }) => { if (points[0].customdata?.[0]) choose(points[0].customdata[0], true); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawPlot(page));
  matchMedia("(max-width: 699px)").addEventListener("change", () => drawPlot(page));
}

function onRows(target) {
  const column = target.closest("[data-sort]")?.dataset.sort;
  const key = target.closest("[data-key]")?.dataset.key;
  if (column) {
    const { sort } = page.state;
    page.state.sort = { by: column, down: sort.by === column && !sort.down };
    drawTable(page);
    byId("rows").querySelector(`[data-sort="${column}"]`).focus();
  } else if (key) {
    choose(key, false);
    byId("rows").querySelector(`[data-key="${key}"]`).focus({ preventScroll: true });
  }
}

/** Arrows walk through the rows, Enter or space chooses one. */
function onRowKey(event) {
  const line = event.target.closest("tr[data-key]");
  if (!line || event.target !== line) return;
  const next = { ArrowDown: line.nextElementSibling, ArrowUp: line.previousElementSibling }[event.key];
  if (next) {
    line.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  } else if (event.key === "Enter" || event.key === " ") onRows(line);
  else return;
  event.preventDefault();
}

show(JSON.parse(byId("data").textContent));
listen();
if (document.body.dataset.live) follow(document.body.dataset.live);
