// The choosers: sweep, model, evaluation, tolerance; tabs of views; chips, which are the figure's only key.

function fillChoosers() {
  const chosen = chosenBoard();
  for (const name of SINGLE) {
    const values = dimension(name).values.map(({ value }) => [value, value || "this sweep"]);
    options(byId(name), values, chosen ? chosen[name] : "");
    byId(name).closest("label").hidden = values.length < 2;
  }
  byId("tol").value = state.tol;
  const varying = page.data.dimensions.filter(({ values }) => values.length > 1);
  const several = varying.map(({ name, title }) => [name, title]);
  options(byId("facet"), [["", "nothing"], ...several], state.facet);
  const plain = several.some(([name]) => name === "method") ? [] : [["method", "Method"]];
  options(byId("color"), [...plain, ...several], state.color);
  byId("tabs").replaceChildren(...Object.entries(VIEWS).map(([name, { label }]) => {
    const tab = button(label, { set: `view=${name}` }, { role: "tab" });
    tab.setAttribute("aria-selected", String(name === state.view));
    return tab;
  }));
  const view = VIEWS[state.view];
  document.querySelectorAll("[data-set]").forEach((each) => {
    const [name, value] = /** @type {HTMLElement} */ (each).dataset.set.split("=");
    if (name !== "view") each.setAttribute("aria-pressed", String(state[name] === value));
    if (name === "y" || name === "range") /** @type {HTMLButtonElement} */ (each).disabled = view.y !== null;
  });
  fillChips(view);
}

/** Chips for each dimension that varies among the lines, with the look that its values have. */
function fillChips(view) {
  const among = shownLines(true);
  const groups = page.data.dimensions.map(({ name, title, values }) => {
    const seen = values.filter(({ value }) => among.some((line) => !line.control && line.at[name] === value));
    const needed = seen.length > 1 && (!SINGLE.includes(name) || spreads().includes(name));
    return needed ? chipGroup(title, seen.map((each) => chip(name, each.value || "none", each, each.value))) : null;
  });
  const references = [];
  if (view.references && among.some((line) => line.control)) {
    references.push(chip("reference", "dense, trained alike", { color: GREY, dash: "dot" }, "control"));
  }
  if (view.references && page.data.published.some(({ board }) => among.some((line) => line.board === board))) {
    references.push(chip("reference", "published", { color: "currentColor", symbol: "circle-open" }, "published"));
  }
  if (references.length) groups.push(chipGroup("References", references));
  if (view.fields) {
    groups.push(chipGroup("Show", view.fields.map((name) => {
      const made = button(name, { set: `field=${name}` });
      made.setAttribute("aria-pressed", String(field() === name));
      return made;
    })));
  }
  byId("chips").replaceChildren(...groups.filter(Boolean));
}

function chipGroup(title, chips) {
  const group = element("div", undefined, { className: "chips" });
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", title);
  group.append(element("span", title), ...chips);
  return group;
}

function chip(name, text, look, value) {
  const title = "Click: this alone, or all again. With Shift: in or out";
  const made = button(undefined, { chip: `${name}=${value}` }, { className: "chip", title });
  made.setAttribute("aria-pressed", String(!isHidden(name, value)));
  const drawn = { color: "currentColor", dash: "solid", symbol: "" };
  if (name === state.color || name === "reference") drawn.color = look.color;
  if (name === styleBy()) Object.assign(drawn, { dash: look.dash, symbol: look.symbol });
  if (name === "reference") Object.assign(drawn, { dash: look.dash ?? "", symbol: look.symbol ?? "" });
  made.append(swatch(drawn), element("span", text));
  return made;
}

/** A click on a chip shows its value alone, a second one all; with Shift it goes in or out. */
function pressChip(name, value, add) {
  const seen = [...document.querySelectorAll(`[data-chip^="${CSS.escape(name)}="]`)];
  const mine = `${name}=${value}`;
  const others = seen.map((each) => /** @type {HTMLElement} */ (each).dataset.chip).filter((each) => each !== mine);
  if (add || name === "reference") return set({ hide: toggled(state.hide, mine) });
  const kept = state.hide.filter((each) => each !== mine && !others.includes(each));
  const alone = !isHidden(name, value) && others.every((each) => state.hide.includes(each));
  return set({ hide: alone ? kept : [...kept, ...others] });
}

function swatch({ color: fill, dash, symbol }) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const part = (tag, attributes) => {
    const made = document.createElementNS(space, tag);
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, String(value)));
    svg.append(made);
  };
  const size = { class: "swatch", width: 26, height: 12, "aria-hidden": "true" };
  Object.entries(size).forEach(([name, value]) => svg.setAttribute(name, String(value)));
  const longer = { dashdot: "6 3 2 3", longdash: "9 3", longdashdot: "9 3 2 3" };
  const dashes = { dot: "2 3", dash: "6 3", ...longer }[dash] ?? "";
  const hollow = symbol.endsWith("open");
  if (dash) part("line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: fill, "stroke-width": 3, "stroke-dasharray": dashes });
  if (symbol.startsWith("square")) part("rect", { x: 9, y: 2, width: 8, height: 8, fill });
  else if (symbol.startsWith("diamond")) part("path", { d: "M13 0 19 6 13 12 7 6Z", fill });
  else if (symbol.startsWith("triangle")) part("path", { d: "M13 1 19 11 7 11Z", fill });
  else if (symbol) {
    part("circle", { cx: 13, cy: 6, r: 4.5, fill: hollow ? "none" : fill, stroke: fill, "stroke-width": 1.5 });
  }
  return svg;
}
