"use strict";
// The reader's choices. All of them live in the address, so that a link opens the same view.

/** Choices as a page starts with them; only what differs stands in the address. */
const START = {
  view: "sparsity", sweep: "", model: "", text: "", at: "", tol: "1.1", y: "ratio", range: "focus", facet: "",
  color: "method", field: "errors", hide: [], pick: [], cell: "", zoom: "", find: "", status: "", sort: "",
  columns: [], open: [], turn: "0", theme: "",
};
const state = { ...START };
const byId = (id) => /** @type {any} */ (document.getElementById(id));
const finite = (value) => typeof value === "number" && Number.isFinite(value);
const narrow = () => window.innerWidth < 700;

/** Takes the choices from the address; what it does not name is as at the start. */
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [name, start] of Object.entries(START)) {
    const text = given.get(name);
    if (Array.isArray(start)) state[name] = text ? text.split(",").map(decodeURIComponent) : [];
    else state[name] = text ?? start;
  }
  if (!Object.hasOwn(VIEWS, state.view)) state.view = START.view;
}

/** The choices as the part of an address behind its hash sign. */
function addressOf() {
  const told = new URLSearchParams();
  for (const [name, start] of Object.entries(START)) {
    const value = state[name];
    if (Array.isArray(start) ? value.length : value !== start) {
      told.set(name, Array.isArray(value) ? value.map(encodeURIComponent).join(",") : value);
    }
  }
  return told.toString();
}

function writeAddress() {
  history.replaceState(null, "", `#${addressOf()}`);
}

/** Takes new choices and draws what depends on them. */
function set(changes, draw = drawAll) {
  Object.assign(state, changes);
  writeAddress();
  draw();
}

/** A list with a value put in, or taken out if it is there. */
const toggled = (list, value) => (list.includes(value) ? list.filter((each) => each !== value) : [...list, value]);

function element(tag, text = undefined, more = {}) {
  const made = Object.assign(document.createElement(tag), more);
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, data, more = {}) {
  const made = element("button", text, { type: "button", ...more });
  Object.assign(made.dataset, data);
  return made;
}

/** The options of a chooser; news must not close a list that the reader has open. */
function options(select, values, chosen) {
  const same = select.options.length === values.length
    && values.every(([value, text], i) => select.options[i].value === value && select.options[i].text === text);
  if (!same) select.replaceChildren(...values.map(([value, text]) => element("option", text, { value })));
  select.value = chosen;
}

const NUMBER = /^[−+]?[\d.,]+(e[+-]?\d+)?( ± [\d.e+-]+)?( %|×)?( \(\d+\))?$/;

/** Fills a table with texts; those that read as numbers stand to the right. */
function fillTable(table, titles, lines, nothing) {
  const head = element("thead");
  const top = head.insertRow();
  for (const title of titles) top.append(element("th", title, { scope: "col" }));
  const body = element("tbody");
  for (const texts of lines) {
    const line = body.insertRow();
    for (const [i, text] of texts.entries()) {
      const cell = element("td", text, { title: String(text).slice(0, 500) });
      if (i && NUMBER.test(String(text))) cell.className = "number";
      line.append(cell);
    }
  }
  if (!lines.length) body.insertRow().append(element("td", nothing, { colSpan: Math.max(1, titles.length) }));
  table.replaceChildren(head, body);
}

/** A value as people read it; downloads have it in full. */
function shown(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.join(" ");
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return Math.abs(value) < 1e4 ? String(value) : value.toLocaleString("en");
  return Math.abs(value) >= 1e5 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

/** A perplexity with its spread, rounded like the terminal's table. */
function told(mean, std = null) {
  if (!finite(mean)) return "";
  const digits = mean >= 9999.5 ? -1 : mean < 100 ? 2 : mean < 1000 ? 1 : 0;
  if (digits < 0) return mean.toExponential(1) + (std === null ? "" : ` ± ${std.toExponential(0)}`);
  if (std === null) return mean.toFixed(digits);
  const fewer = std >= 0.095 ? Math.min(digits, 1) : digits;
  return `${mean.toFixed(fewer)} ± ${std.toFixed(fewer)}`;
}
