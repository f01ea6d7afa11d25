// The page: takes its contents, draws, and listens. `show` is called again with news.

function show(data) {
  page.data = data;
  takeRows(data.rows);
  page.lines = new Map(data.lines.map((line) => [line.id, line]));
  if (data.fresh) fillBoards(data.fresh);
  else if (page.drawn) fillBoards(data.boards);
  const focused = focusedAs();
  fillHead();
  fillSweeps();
  fillProgress();
  drawAll();
  page.drawn = true;
  if (focused) focusOn(focused);
}

/** Focuses what a selector finds, without a move of the page. */
function focusOn(selector) {
  /** @type {HTMLElement} */ (document.querySelector(selector))?.focus({ preventScroll: true });
}

/** A selector that finds the focused element again after it is drawn anew; null if it stays. */
function focusedAs() {
  const { dataset = {} } = /** @type {HTMLElement} */ (document.activeElement ?? {});
  const line = document.activeElement?.closest("tr[data-line]")?.getAttribute("data-line");
  for (const name of ["key", "sort", "chip", "set", "pick", "at", "cell", "open"]) {
    if (dataset[name] !== undefined) {
      const inside = name === "cell" && line ? `tr[data-line="${CSS.escape(line)}"] ` : "";
      return `${inside}[data-${name}="${CSS.escape(dataset[name])}"]`;
    }
  }
  return null;
}

function fillHead() {
  const { head, settings } = page.data;
  byId("title").textContent = head.title;
  document.title = head.title;
  byId("facts").textContent = head.facts;
  byId("failed").hidden = !head.failed;
  byId("failed").textContent = `${head.failed} cell${head.failed === 1 ? "" : "s"} failed`;
  byId("notes").hidden = !head.notes;
  byId("notes-text").textContent = head.notes;
  byId("settings").replaceChildren(...settings.flatMap(([name, values]) => [
    element("dt", name), ...(values.length ? values : ["not recorded"]).map((value) => element("dd", value)),
  ]));
}

/** Settings in which several sweeps differ. */
function fillSweeps() {
  const { sweeps } = page.data;
  byId("sweeps").hidden = !sweeps;
  if (!sweeps) return;
  const lines = sweeps.settings.map(([name, values]) => [name, ...values]);
  fillTable(byId("differing"), ["setting", ...sweeps.names], lines, "the same settings in all");
}

function drawAll() {
  if (!page.data.boards.length) {
    byId("figure").hidden = true;
    byId("where").hidden = true;
  } else {
    byId("figure").hidden = byId("where").hidden = false;
    fillChoosers();
    drawBoards();
    drawPlot();
  }
  drawCompared();
  drawTable();
  drawDrawer();
}

/** Redraws the answer and the table without the plot, which takes longest. */
const drawRows = () => { drawTable(); drawDrawer(); };

/** Clicks on the chips, tabs and other buttons that name their choice. */
function onButtons(event) {
  const pressed = event.target.closest("button");
  if (!pressed) return;
  const { chip: of, set: choice, save } = pressed.dataset;
  if (of) {
    const [name, ...value] = of.split("=");
    pressChip(name, value.join("="), event.shiftKey || event.ctrlKey || event.metaKey);
    focusOn(`[data-chip="${CSS.escape(of)}"]`);
  } else if (choice) {
    const [name, value] = choice.split("=");
    set({ [name]: value, ...(name === "range" ? { zoom: "" } : {}) });
    focusOn(`[data-set="${choice}"]`);
  } else if (save === "csv") saveNumbers();
  else if (save) saveFigure(save);
}

function listen() {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  for (const name of [...SINGLE, "tol", "facet", "color"]) {
    on(name, "change", ({ target: { value } }) => set({ [name]: value }));
  }
  byId("boards").addEventListener("click", onBoards);
  byId("figure").addEventListener("click", onButtons);
  on("numbers", "toggle", () => { if (byId("numbers").open) drawNumbers(); });
  on("find", "input", ({ target: { value } }) => set({ find: value, turn: "0" }, drawRows));
  on("status", "change", ({ target: { value } }) => set({ status: value, turn: "0" }, drawRows));
  on("columns", "change", () => {
    const boxes = [...byId("columns").querySelectorAll("input")];
    set({ columns: boxes.filter((box) => box.checked).map((box) => box.value) }, drawRows);
  });
  byId("columns").closest("details").addEventListener("toggle", fillColumns);
  on("previous", "click", () => set({ turn: String(Math.max(0, Number(state.turn) - 1)) }, drawRows));
  on("next", "click", () => set({ turn: String(Number(state.turn) + 1) }, drawRows));
  on("csv", "click", saveRows);
  on("rows", "click", ({ target: hit }) => onRows(hit));
  on("rows", "keydown", onRowKey);
  on("failed", "click", openFailed);
  on("theme", "click", () => { set({ theme: isDark() ? "light" : "dark" }, applyTheme); });
  on("copy", "click", ({ target: hit }) => {
    copyText(location.href);
    hit.textContent = "Copied";
    setTimeout(() => { hit.textContent = "Copy link"; }, 1500);
  });
  on("print", "click", () => window.print());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPlot);
  matchMedia("(max-width: 699px)").addEventListener("change", drawPlot);
  window.addEventListener("hashchange", () => { readAddress(); applyTheme(); drawAll(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && (state.cell || state.pick.length)) {
      if (state.cell) closeDrawer();
      else set({ pick: [] });
    }
  });
}

const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark";

function applyTheme() {
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  else delete document.documentElement.dataset.theme;
  drawPlot();
}

readAddress();
show(JSON.parse(byId("data").textContent));
listen();
if (document.body.dataset.live) follow(document.body.dataset.live);
