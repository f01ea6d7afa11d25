// The page: choosers, and what links the plot and the tables. `show` may be called again with new data.

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

/** How to find what has the focus after everything around it was drawn anew; null if it stays. */
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

function options(select, values, chosen) {
  select.disabled = values.length < 2;
  // News of a running sweep must not close a list that the reader has open.
  const same = select.options.length === values.length && values.every(([value, text], i) => select.options[i].value === value && select.options[i].text === text);
  if (same) select.value = chosen;
  else select.replaceChildren(...values.map(([value, text]) => element("option", text, { value, selected: value === chosen })));
}

function fillChoosers() {
  const facets = page.data.drawing.layout.meta.facets;
  const models = [...new Set(facets.map((facet) => facet.model))];
  if (!models.includes(page.state.model)) page.state.model = models[0] ?? null;
  options(byId("model"), models.map((model) => [model, model]), page.state.model);
  const counts = new Map();
  for (const row of page.rows) counts.set(row.status, (counts.get(row.status) ?? 0) + 1);
  const told = [...counts].map(([status, count]) => `${count} ${status.replace("_", " ")}`);
  byId("counts").textContent = `${page.rows.length} rows${told.length ? ": " : ""}${told.join(", ")}`;
  options(byId("status"), [["", "any"], ...[...counts.keys()].map((status) => [status, status.replace("_", " ")])], page.state.status);
  fillMarks();
  fillFacet(facets);
}

/** The evaluations and targets of the chosen model. */
function fillFacet(facets) {
  const { state } = page;
  const own = facets.map((facet, i) => [i, facet]).filter(([, facet]) => facet.model === state.model);
  const kept = own.find(([, facet]) => facet.evaluation === state.evaluation) ?? own[0] ?? [0, null];
  state.facet = kept[0];
  state.evaluation = kept[1]?.evaluation ?? null;
  options(byId("evaluation"), own.map(([i, facet]) => [String(i), facet.evaluation]), String(state.facet));
  const facet = facets[state.facet];
  const name = `${state.model} ${state.evaluation}`;
  if (state.scaled !== name) {
    state.scaled = name;
    state.scales.perplexity = facet?.log ? "log" : "linear";
  }
  const cells = page.rows.filter((row) => page.facetOf.get(row.key) === state.facet && row.method !== "dense");
  const targets = [...new Map(cells.map((row) => [targetOf(row), row.sparsity]))];
  targets.sort(([a, x], [b, y]) => a.includes(":") - b.includes(":") || x - y);
  // Where methods part: what is nearest to 0.7, unless the reader has chosen.
  const far = ([target, x]) => Math.abs(x - 0.7) + target.includes(":");
  if (!targets.some(([target]) => target === state.target)) state.target = targets.toSorted((a, b) => far(a) - far(b))[0]?.[0] ?? null;
  options(byId("target"), targets.map(([target]) => [target, target.includes(":") ? target : `sparsity ${target}`]), state.target);
  byId("caption").textContent = caption(facet);
}

const CAPTIONS = {
  tokens: "Perplexity after as many training tokens, over the cell's whole history.",
  seconds: "Seconds of pruning and training over the cell's whole history, without evaluation.",
  front: "Nothing has both more zeros and a lower perplexity than what is in front.",
  errors: "Change of each layer's output over its size, tr(D H Dᵀ) / tr(W H Wᵀ), in the cell's last prune stage: D is what pruning took from the weights W, H the second moment of the inputs. 0 is no change, 1 as bad as no layer. An iterative cell's is that of its last step alone. Mean over seeds. Magnitude looks at no inputs and has none; Wanda knows their norms alone, so compare it with itself.",
  zeros: "Fraction of each matrix that is masked.",
  losses: "Training loss as it was logged, at most 200 means a round; a line for each seed, broken where weights were pruned between rounds.",
};
const DRAWN = [
  ["band", "Band or bar: standard deviation over seeds."],
  ["published", "Hollow: published by others."],
  ["trouble", "Strip on top, cells without a perplexity: × failed, ▲ not finite, ■ stopped, – not run."],
];

function caption(facet) {
  if (!facet) return "No rows yet.";
  const kinds = new Set(page.data.drawing.data.filter((trace) => trace.meta.facet === page.state.facet).map((trace) => trace.meta.kind));
  const told = CAPTIONS[page.state.view] ?? DRAWN.filter(([kind]) => kinds.has(kind)).map(([, text]) => text).join(" ");
  return `${facet.model} on ${facet.evaluation}. ${told}`;
}

/** Checkboxes for what occurs, each with the colour or the mark that stands for it. */
function fillMarks() {
  const traces = page.data.drawing.data.filter((trace) => trace.meta.method !== "dense");
  const curves = traces.filter((trace) => trace.meta.kind === "curve");
  const first = (name) => [...new Map(curves.map((trace) => [trace.meta[name], trace]).reverse())].reverse();
  const order = ["oneshot", "finetune", "iterative"];
  const regimes = first("regime").sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
  const methods = first("method").map(([name, { line }]) => checkbox("method", name, { color: line.color }));
  byId("methods").append(...replaced("methods", methods));
  const drawn = regimes.map(([name, { line, marker }]) => checkbox("regime", name, { dash: line.dash, symbol: marker.symbol }));
  byId("regimes").append(...replaced("regimes", drawn));
  const kinds = new Set(page.data.drawing.data.map((trace) => trace.meta.kind));
  const references = [];
  if (kinds.has("control")) references.push(checkbox("reference", "control", { dash: "dot" }, "dense, fine-tuned alike"));
  if (kinds.has("published")) references.push(checkbox("reference", "published", { symbol: "circle-open" }, "published values"));
  byId("references").append(...replaced("references", references));
  byId("references").hidden = !references.length;
}

function replaced(id, labels) {
  byId(id).querySelectorAll("label").forEach((label) => label.remove());
  return labels;
}

function checkbox(kind, name, mark, text = name) {
  const label = element("label");
  const box = element("input", undefined, { type: "checkbox", checked: !page.state.hidden.has(`${kind}:${name}`) });
  box.dataset.name = `${kind}:${name}`;
  label.append(box, swatch(mark), element("span", text));
  return label;
}

function swatch({ color: fill = "currentColor", dash = "solid", symbol = "" }) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const part = (tag, attributes) => {
    const made = document.createElementNS(svg.namespaceURI, tag);
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    svg.append(made);
  };
  Object.entries({ class: "swatch", width: 30, height: 14, "aria-hidden": "true" }).forEach(([name, value]) => svg.setAttribute(name, value));
  const dashes = { dot: "2 3", dash: "6 3", dashdot: "6 3 2 3" }[dash] ?? "";
  const hollow = symbol.endsWith("open");
  if (!hollow) part("line", { x1: 1, x2: 29, y1: 7, y2: 7, stroke: fill, "stroke-width": symbol || dashes ? 2 : 4, "stroke-dasharray": dashes });
  if (symbol.startsWith("square")) part("rect", { x: 11, y: 3, width: 8, height: 8, fill });
  else if (symbol.startsWith("diamond")) part("path", { d: "M15 1 21 7 15 13 9 7Z", fill });
  else if (symbol) part("circle", { cx: 15, cy: 7, r: 4.5, fill: hollow ? "none" : fill, stroke: fill, "stroke-width": 1.5 });
  return svg;
}

/** Marks a row everywhere; leads the plot to it where it is drawn but not in view. */
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
  on("view", "change", ({ value }) => { state.view = value; byId("references").disabled = !["sparsity", "tokens", "losses"].includes(value); byId("caption").textContent = caption(facets()[state.facet]); });
  on("target", "change", ({ value }) => { state.target = value; });
  for (const id of ["methods", "regimes", "references"]) {
    on(id, "change", ({ checked, dataset }) => { state.hidden[checked ? "delete" : "add"](dataset.name); });
  }
  document.querySelectorAll("[data-scale]").forEach((button) => button.addEventListener("click", () => { state.scales[VIEWS[state.view].y] = button.dataset.scale; pressScale(); drawPlot(page); }));
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
