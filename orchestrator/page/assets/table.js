// The table of rows: cells with their seeds folded. Texts are set as text, so nothing is read as markup.

const PAGE_SIZE = 50;
const NAMES = {
  eval_text: "text", mask_structure: "structure", dense_perplexity: "dense perplexity", ratio: "× dense",
  num_finetune_tokens: "training tokens",
  prune_seconds: "pruning (s)", finetune_seconds: "training (s)", evaluate_seconds: "evaluation (s)",
  peak_memory_bytes: "peak memory (bytes)", num_pruned: "weights pruned", num_prunable: "prunable weights",
  dense_bytes: "dense (bytes)", sparse_bytes: "sparse (bytes)",
  finetune_lr: "learning rate", cell_id: "cell id", in_current_grid: "in the current grid",
};
const MEASURED = /^(sparse_)?(prefill|decode)_/;
const USUAL = ["model", "method", "regime", "target", "seeds", "status", "perplexity", "ratio", "num_finetune_tokens",
  "prune_seconds", "finetune_seconds", "eval_text", "error"];
const humanName = (column) => NAMES[column]
  ?? column.replaceAll("_", " ").replace(/ seconds$/, " (s)").replace(/ spread$/, " spread (s)");

/** Columns that are shown: the reader's, else the usual ones that have anything. */
function tableColumns() {
  if (state.columns.length) return state.columns;
  const tasks = rows.names.filter((name) => name.startsWith("task:"));
  return [...USUAL, ...tasks].filter((name) => !rows.columns[name] || hasAny(name));
}
const hasAny = (name) => rows.columns[name][0].some((value) => value !== null && value !== "" && value !== undefined);

/** What a column says of a cell, as a number or a text. */
function cellValue(members, column) {
  const [first] = members;
  if (column === "target") return targetOf(first);
  if (column === "seeds") {
    if (valueOf("seed", first) === null) return "none";
    return `${spread(members, "perplexity").n} of ${members.length}`;
  }
  if (column === "status") return stateOf(members);
  if (column === "ratio") return spread(members, "perplexity").mean / valueOf("dense_perplexity", first) || null;
  const value = valueOf(column, first);
  if (column === "error") return members.map((i) => valueOf("error", i)).find(Boolean) ?? null;
  if (column === "perplexity" && members.length === 1 && value !== null) return value;
  if (!members.some((i) => finite(valueOf(column, i)))) return value;
  const devices = new Set(members.map((i) => valueOf("speed_device", i)).filter(Boolean));
  if (MEASURED.test(column) && devices.size > 1) return "several devices"; // Their seconds have no mean.
  return spread(members, column).mean;
}

function cellText(members, column) {
  const value = cellValue(members, column);
  if (column === "perplexity") {
    const { mean, std } = spread(members, "perplexity");
    return finite(mean) ? told(mean, std) : shown(value);
  }
  return column === "ratio" && finite(value) ? `${value.toFixed(2)}×` : shown(value);
}

/** The texts that Find looks through: those of the usual columns, as they are shown. */
function wordsOf(group, members) {
  rows.words ??= new Map();
  if (!rows.words.has(group)) {
    const texts = USUAL.map((column) => cellText(members, column).replace(/ ± \S+/, ""));
    const ids = members.map((i) => `${valueOf("cell_id", i).slice(0, 12)} seed ${valueOf("seed", i)}`);
    rows.words.set(group, [...texts, ...ids].join(" ").toLowerCase());
  }
  return rows.words.get(group);
}

/** True if a cell has a word, or in a column a value that begins with it (`sparsity:0.7`, `status:failed`). */
function hasWord(group, members, word) {
  const [column, wanted] = word.split(/:(.*)/s);
  const named = wanted === undefined ? undefined : [...USUAL, ...rows.names].find(
    (name) => name.toLowerCase() === column || humanName(name).toLowerCase().replaceAll(" ", "_") === column,
  );
  if (!named) {
    const number = /^[\d.]+$/.test(word);
    const words = wordsOf(group, members);
    return number ? words.split(/\s+/).includes(word) : words.includes(word);
  }
  const text = cellText(members, named).toLowerCase();
  return /^[\d.]+$/.test(wanted) ? text === wanted || text.startsWith(`${wanted} `) : text.includes(wanted);
}

/** Groups of rows that pass the filters, sorted. */
function filtered() {
  const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [...rows.groups].filter(([group, members]) => {
    if (state.status && !members.some((i) => valueOf("status", i) === state.status)) return false;
    return words.every((word) => hasWord(group, members, word));
  }).map(([, members]) => members);
  if (!state.sort) return found.sort(byPlace);
  const column = state.sort.replace(/^-/, "");
  const sign = state.sort.startsWith("-") ? -1 : 1;
  const keyed = found.map((members) => [cellValue(members, column), members]);
  return keyed.sort(([a], [b]) => sign * ordered(a, b)).map(([, members]) => members);
}

/** The order without a choice: model, method, regime, target. */
function byPlace([a], [b]) {
  for (const column of ["model", "method", "regime", "mask_structure", "sparsity"]) {
    const [one, other] = [valueOf(column, a), valueOf(column, b)];
    if (one !== other) return one === null ? -1 : other === null ? 1 : ordered(one, other);
  }
  return a - b;
}

/** Sorts numbers before infinity before NaN before nothing, words by locale. */
function ordered(a, b) {
  const last = { nan: 2, inf: 1, "": 3, null: 3, undefined: 3 };
  const rank = (value) => (typeof value === "number" ? 0 : last[String(value)] ?? 0);
  if (rank(a) || rank(b)) return rank(a) - rank(b);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return shown(a).localeCompare(shown(b), undefined, { numeric: true });
}

function drawTable() {
  const found = filtered();
  const last = Math.max(0, Math.ceil(found.length / PAGE_SIZE) - 1);
  const turn = Math.min(Number(state.turn) || 0, last);
  const visible = found.slice(turn * PAGE_SIZE, (turn + 1) * PAGE_SIZE);
  const columns = tableColumns();
  const body = element("tbody");
  for (const members of visible) body.append(...tableRows(members, columns, members === visible[0]));
  byId("rows").replaceChildren(tableHead(columns), body);
  const from = turn * PAGE_SIZE;
  const span = `${from + 1}–${from + visible.length} of ${found.length} cells`;
  byId("range").textContent = found.length ? span : "no rows";
  byId("previous").disabled = turn === 0;
  byId("next").disabled = turn >= last;
  byId("find").value = state.find;
  const statuses = [...new Set(rows.columns.status ? rows.columns.status[0] : [])].sort();
  options(byId("status"), [["", "any"], ...statuses.map((each) => [each, each.replace("_", " ")])], state.status);
}

function tableHead(columns) {
  const head = element("thead");
  const line = head.insertRow();
  for (const column of columns) {
    const cell = element("th", undefined, { scope: "col" });
    const mark = state.sort === column ? " ▲" : state.sort === `-${column}` ? " ▼" : "";
    if (mark) cell.setAttribute("aria-sort", mark === " ▼" ? "descending" : "ascending");
    cell.append(button(humanName(column) + mark, { sort: column }));
    line.append(cell);
  }
  return head;
}

/** A line for a cell, and below it one for each seed if the reader has it open. */
function tableRows(members, columns, focusable) {
  const key = valueOf("key", members[0]);
  const open = state.open.includes(key);
  const chosen = state.cell && cellRows().includes(members[0]);
  const line = element("tr", undefined, { tabIndex: focusable || chosen ? 0 : -1 });
  line.dataset.key = key;
  line.setAttribute("aria-selected", String(Boolean(chosen)));
  for (const column of columns) {
    const text = cellText(members, column);
    const cell = element("td", text, { title: text.slice(0, 300) });
    if (typeof cellValue(members, column) === "number") cell.className = "number";
    if (column === "status" && cell.textContent !== "done") cell.className = "trouble";
    if (column === "seeds" && members.length > 1) cell.append(" ", button(open ? "fold" : "unfold", { open: key }));
    line.append(cell);
  }
  if (!open) return [line];
  return [line, ...members.map((i) => {
    const seed = element("tr", undefined, { className: "seed" });
    for (const column of columns) {
      const text = column === "seeds" ? `seed ${shown(valueOf("seed", i))}` : cellText([i], column);
      seed.append(element("td", text, { className: /^[\d.]/.test(text) && column !== "seeds" ? "number" : "" }));
    }
    return seed;
  })];
}

/** Checkboxes for all columns. */
function fillColumns() {
  const used = tableColumns();
  byId("columns").replaceChildren(...[...new Set([...USUAL, ...rows.names])].map((name) => {
    const label = element("label", undefined, { style: "display: block" });
    const box = { type: "checkbox", checked: used.includes(name), value: name };
    label.append(element("input", undefined, box), ` ${humanName(name)}`);
    return label;
  }));
}
