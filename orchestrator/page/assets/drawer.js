// The drawer: all that is known of one cell, with the commands that retry it, get it, or repeat it.

const LEADING = ["perplexity", "dense_perplexity", "measured_sparsity", "num_finetune_tokens"];

/** Opens the cell of a line at a target. */
function openCell(line, at) {
  set({ cell: `${line}@${at}`, at: at || state.at });
  byId("drawer").focus({ preventScroll: true });
}

/** Rows of the cell that the address names: of a line and target, or of a group of rows. */
function cellRows() {
  const [id, at] = state.cell.split("@");
  const line = page.lines.get(id);
  if (line) return line.points.find((p) => p.target === at)?.rows ?? [];
  if (!id.startsWith("row-")) return [];
  const i = rows.at.get(id.slice(4));
  return i === undefined ? [] : rows.groups.get(valueOf("group", i));
}

function drawDrawer() {
  const drawer = byId("drawer");
  const members = state.cell ? cellRows() : [];
  drawer.hidden = !members.length;
  if (!members.length) return;
  const first = members[0];
  const name = ["method", "regime"].map((column) => valueOf(column, first)).join(" · ");
  const title = valueOf("method", first) === "dense" ? name : `${name} at ${targetOf(first)}`;
  const close = button("Close", {}, { className: "close", onclick: closeDrawer });
  const { mean, std } = spread(members, "perplexity");
  const dense = valueOf("dense_perplexity", first);
  const ratio = finite(mean) && finite(dense) ? `, ${(mean / dense).toFixed(2)}× dense` : "";
  const state_told = stateOf(members);
  const summary = element("p", finite(mean) ? `Perplexity ${told(mean, std)}${ratio}` : `No perplexity: ${state_told}`);
  const table = element("table");
  fillTable(table, ["seed", "status", "perplexity", "sparsity", "seconds"], members.map((i) => [
    shown(valueOf("seed", i)) || "none", valueOf("status", i).replace("_", " "), shown(valueOf("perplexity", i)),
    shown(valueOf("measured_sparsity", i)),
    shown((valueOf("prune_seconds", i) ?? 0) + (valueOf("finetune_seconds", i) ?? 0)),
  ]), "");
  drawer.replaceChildren(
    close, element("h2", title), element("p", `${valueOf("model", first)} on ${valueOf("eval_text", first)}`), summary,
    ...errorsOf(members), ...commandsOf(members, state_told), table, ...stageLinks(members), ...factsOf(first),
  );
}

/** Errors in full, each once. */
function errorsOf(members) {
  const errors = [...new Set(members.map((i) => valueOf("error", i)).filter(Boolean))];
  return errors.map((text) => element("p", text, { className: "error" }));
}

/** Commands for the cell, each with a button that copies it. */
function commandsOf(members, state_told) {
  const known = page.data.commands[valueOf("sweep", members[0])] ?? {};
  const done = members.find((i) => valueOf("status", i) === "done") ?? members[0];
  const id = valueOf("cell_id", done).slice(0, 12);
  const wanted = state_told === "done" ? [] : [["Retry", known.retry]];
  if (members.some((i) => valueOf("status", i) === "done")) {
    wanted.push(["Get the model", known.get], ["Run again and compare", known.repeat]);
  }
  return wanted.filter(([, command]) => command).flatMap(([label, command]) => {
    const text = command.replace("{cell}", id);
    const line = element("div", undefined, { className: "command" });
    const copy = button("Copy", {}, { ariaLabel: `Copy: ${label}`, onclick: () => copyText(text) });
    const code = element("code");
    // Each word is a box of its own, or a browser would break a line after the dash of a flag.
    text.split(" ").forEach((word, i) => code.append(i ? " " : "", element("span", word, { className: "word" })));
    line.append(code, copy);
    return [element("div", label), line];
  });
}

/** Links to the stages of the cell, which lie beside the page in the out-dir. */
function stageLinks(members) {
  const dirs = [...new Set(members.map((i) => valueOf("stage_dir", i)).filter(Boolean))];
  if (!dirs.length || document.body.dataset.live) return [];
  const line = element("p", "Stages: ");
  dirs.forEach((dir) => {
    const path = dir.split("/").slice(-2).map(encodeURIComponent).join("/");
    line.append(element("a", dir.split("/").at(-1).slice(0, 12), { href: `${path}/` }), " ");
  });
  return [line];
}

/** All other facts of the first row. */
function factsOf(i) {
  const names = [...LEADING, ...rows.names.filter((name) => !LEADING.includes(name) && name !== "error")];
  const list = element("dl");
  for (const name of names) {
    const value = valueOf(name, i);
    if (value === null || value === undefined || value === "") continue;
    list.append(element("dt", humanName(name)), element("dd", shown(value)));
  }
  const more = element("details");
  more.append(element("summary", "All facts of the first row"), list);
  return [more];
}

function closeDrawer() {
  const [line, at] = state.cell.split("@");
  set({ cell: "" });
  const opened = document.querySelector(`tr[data-line="${CSS.escape(line)}"] [data-cell="${CSS.escape(at ?? "")}"]`);
  /** @type {HTMLElement} */ (opened)?.focus({ preventScroll: true });
}

/** Puts a text on the clipboard, also where a page from disk may not use the newer interface. */
function copyText(text) {
  const old = () => {
    const area = element("textarea", text, { ariaHidden: "true" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };
  if (navigator.clipboard && window.isSecureContext) navigator.clipboard.writeText(text).catch(old);
  else old();
}
