// Clicks and keys on the plot and on the table of rows.

/** Shows the failed cells in the table, and the first of them in the drawer. */
function openFailed() {
  set({ status: "failed", turn: "0" }, drawRows);
  const first = filtered()[0];
  if (first) set({ cell: `row-${valueOf("key", first[0])}` }, drawRows);
}

/** Clicks on points and labels, and the reader's zoom. */
function listenToPlot() {
  const plot = byId("plot");
  if (page.listens) return;
  page.listens = true;
  plot.on("plotly_click", ({ points: [point], event }) => {
    const [id, at] = point.customdata ?? [];
    if (!page.lines.has(id)) return;
    const add = event?.shiftKey || event?.ctrlKey || event?.metaKey;
    if (add) set({ pick: toggled(state.pick, id), cell: "" });
    else set({ pick: [id], cell: `${id}@${at}`, at });
  });
  plot.on("plotly_clickannotation", ({ annotation, event }) => {
    const [kind, id] = (annotation.name ?? "").split(" ");
    if (kind === "line") pickLine(id, event?.shiftKey);
  });
  plot.on("plotly_relayout", (changes) => {
    if (!Object.keys(changes).some((name) => /axis\d*\.(range|autorange)/.test(name))) return;
    const { xaxis, yaxis } = plot._fullLayout;
    const reset = Object.keys(changes).some((name) => name.endsWith("autorange"));
    const numbers = [...xaxis.range, ...yaxis.range].map((value) => Number(Number(value).toPrecision(6)));
    set({ zoom: reset ? "" : [[state.view, state.y].join("."), ...numbers].join("~") }, drawPlot);
  });
}

function onRows(hit) {
  const { sort, open } = hit.closest("[data-sort], [data-open]")?.dataset ?? {};
  const key = hit.closest("[data-key]")?.dataset.key;
  if (sort) {
    set({ sort: state.sort === sort ? `-${sort}` : sort, turn: "0" }, drawRows);
    byId("rows").querySelector(`[data-sort="${sort}"]`).focus();
  } else if (open) {
    set({ open: toggled(state.open, open) }, drawRows);
    byId("rows").querySelector(`[data-open="${open}"]`)?.focus();
  } else if (key) {
    set({ cell: `row-${key}` }, drawRows);
    byId("rows").querySelector(`[data-key="${key}"]`)?.focus({ preventScroll: true });
  }
}

/** Arrows walk through the rows, Enter or space opens one. */
function onRowKey(event) {
  const line = event.target.closest("tr[data-key]");
  if (!line || event.target !== line) return;
  const near = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  let next = near ? line[near] : null;
  while (next && !next.dataset.key) next = next[near];
  if (next) {
    line.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  } else if (event.key === "Enter" || event.key === " ") onRows(line);
  else return;
  event.preventDefault();
}
