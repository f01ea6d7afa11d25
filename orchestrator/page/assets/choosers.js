// The choosers: model, evaluation, target, view, and ticks for methods, regimes and references.

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
  // Methods part most near 0.7, so that is where a page starts; later the reader's choice holds.
  const far = ([target, x]) => Math.abs(x - 0.7) + target.includes(":");
  if (!targets.some(([target]) => target === state.target)) state.target = targets.toSorted((a, b) => far(a) - far(b))[0]?.[0] ?? null;
  options(byId("target"), targets.map(([target]) => [target, target.includes(":") ? target : `sparsity ${target}`]), state.target);
  fillView(facet);
}

/** The views, the caption of the chosen one, and whether it draws references. */
function fillView(facet) {
  const view = VIEWS[page.state.view];
  options(byId("view"), Object.entries(VIEWS).map(([name, { title }]) => [name, title]), page.state.view);
  byId("references").disabled = !view.references;
  byId("caption").textContent = facet ? `${facet.model} on ${facet.evaluation}. ${view.caption(page)}` : "No rows yet.";
}

/** Checkboxes for the methods, regimes and references that occur, each with its colour or mark. */
function fillMarks() {
  const traces = page.data.drawing.data.filter((trace) => trace.meta.method !== "dense");
  const curves = traces.filter((trace) => trace.meta.kind === "curve");
  const first = (name) => [...new Map(curves.map((trace) => [trace.meta[name], trace]).reverse())].reverse();
  const order = ([regime]) => page.data.regimes.indexOf(regime);
  const regimes = first("regime").sort((a, b) => order(a) - order(b));
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
