// The tables. Cells are set as text, so nothing from a row is ever read as markup.

const KEY_COLUMNS = ["model", "method", "regime", "mask_structure", "sparsity", "seed", "status", "perplexity", "dense_perplexity", "measured_sparsity", "num_finetune_tokens", "prune_seconds", "finetune_seconds", "eval_text", "error"];
const PAGE_SIZE = 50;

function element(tag, text, more = {}) {
  const made = Object.assign(document.createElement(tag), more);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A value as the table shows it; the CSV has it in full. */
function shown(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.join(" ");
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  return String(Math.abs(value) >= 1e5 ? Number(value).toExponential(2) : Number(value.toPrecision(5)));
}

/** A perplexity with its spread, rounded like the terminal's table. */
function told({ mean, std }) {
  if (mean >= 9999.5) return mean.toExponential(1) + (std === null ? "" : `\u00a0±\u00a0${std.toExponential(0)}`);
  let digits = mean < 100 ? 2 : mean < 1000 ? 1 : 0;
  if (std === null) return mean.toFixed(digits);
  if (std >= 0.095) digits = Math.min(digits, 1);
  return `${mean.toFixed(digits)}\u00a0±\u00a0${std.toFixed(digits)}`;
}

/** Sorts numbers before infinity before NaN before nothing, words by locale. */
function compare(a, b) {
  const rank = (value) => (value === null || value === "" ? 3 : value === "nan" ? 2 : value === "inf" ? 1 : 0);
  if (rank(a) || rank(b)) return rank(a) - rank(b);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return shown(a).localeCompare(shown(b), undefined, { numeric: true });
}

/** The rows that pass the filters, sorted. */
function filtered(page) {
  const { find, status, drawn, sort, facet } = page.state;
  const words = find.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = page.rows.filter((row) => {
    if (status && row.status !== status) return false;
    if (drawn && page.facetOf.get(row.key) !== facet) return false;
    return words.every((word) => row.haystack.includes(word));
  });
  const sign = sort.down ? -1 : 1;
  return sort.by ? rows.sort((a, b) => sign * compare(a[sort.by], b[sort.by])) : rows;
}

/** The columns that matter most and those of tasks; columns that are empty in all rows are left out. */
function usedColumns({ rows, data }) {
  const tasks = data.columns.filter((column) => column.startsWith("task:"));
  return [...KEY_COLUMNS, ...tasks].filter((column) => rows.some((row) => shown(row[column]) !== ""));
}

function drawTable(page) {
  const { state } = page;
  const rows = filtered(page);
  const last = Math.max(0, Math.ceil(rows.length / PAGE_SIZE) - 1);
  if (state.reveal) {
    const at = rows.findIndex((row) => row.key === state.chosen);
    if (at >= 0) state.turn = Math.floor(at / PAGE_SIZE);
    state.reveal = false;
  }
  state.turn = Math.min(state.turn, last);
  const from = state.turn * PAGE_SIZE;
  const visible = rows.slice(from, from + PAGE_SIZE);
  const columns = state.wide ? page.data.columns : usedColumns(page);
  const body = element("tbody");
  const focusable = visible.find((row) => row.key === state.chosen) ?? visible[0];
  for (const row of visible) body.append(tableRow(row, columns, state.chosen, row === focusable));
  document.getElementById("rows").replaceChildren(tableHead(columns, state.sort), body);
  document.getElementById("range").textContent = rows.length ? `${from + 1}–${from + visible.length} of ${rows.length}` : "no rows";
  document.getElementById("previous").disabled = state.turn === 0;
  document.getElementById("next").disabled = state.turn >= last;
}

function tableHead(columns, sort) {
  const head = element("thead");
  const line = head.insertRow();
  for (const column of columns) {
    const cell = element("th", undefined, { scope: "col" });
    const mark = sort.by === column ? (sort.down ? " ▼" : " ▲") : "";
    if (mark) cell.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    const button = element("button", column.replaceAll("_", " ") + mark, { type: "button" });
    button.dataset.sort = column;
    cell.append(button);
    line.append(cell);
  }
  return head;
}

function tableRow(row, columns, chosen, focusable) {
  const line = element("tr", undefined, { tabIndex: focusable ? 0 : -1 });
  line.dataset.key = row.key;
  line.setAttribute("aria-selected", String(row.key === chosen));
  for (const column of columns) {
    const cell = element("td", shown(row[column]), { title: shown(row[column]).slice(0, 500) });
    if (typeof row[column] === "number") cell.className = "number";
    const odd = (column === "status" && row.status !== "done") || row[column] === "nan" || row[column] === "inf";
    if (odd) cell.className = "trouble";
    line.append(cell);
  }
  return line;
}

/** Fills a table with texts; those that read as numbers stand to the right. */
function fillTable(id, titles, lines, nothing) {
  const head = element("thead");
  const top = head.insertRow();
  for (const title of titles) top.append(element("th", title, { scope: "col" }));
  const body = element("tbody");
  for (const texts of lines) {
    const line = body.insertRow();
    for (const text of texts) line.append(element("td", text, { title: text.slice(0, 500), className: /^[−+]?[\d.,]+(\s±\s[\d.,]+)?(\s%)?$/.test(text) ? "number" : "" }));
  }
  if (!lines.length) body.insertRow().append(element("td", nothing, { colSpan: titles.length }));
  byId(id).replaceChildren(head, body);
}

function downloadCsv(page) {
  const quote = (value) => `"${(Array.isArray(value) ? value.join(" ") : String(value ?? "")).replaceAll('"', '""')}"`;
  const lines = [page.data.columns, ...filtered(page).map((row) => page.data.columns.map((column) => row[column]))];
  const text = lines.map((line) => line.map(quote).join(",")).join("\r\n");
  const link = element("a", undefined, { download: "results.csv", href: URL.createObjectURL(new Blob([text], { type: "text/csv" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
