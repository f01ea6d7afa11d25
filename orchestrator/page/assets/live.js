// News of running sweeps, from the page's own server, and several sweeps side by side.

const live = { address: "", sweep: 0, timer: null };

function follow(address) {
  Object.assign(live, { address, sweep: page.data.sweeps?.chosen ?? 0 });
  byId("sweep").addEventListener("change", ({ target }) => {
    live.sweep = Number(target.value);
    page.data.version = "";
    ask();
  });
  live.timer = setTimeout(ask, 1000 * (page.data.again ?? 2));
}

/** Asks for news again and again; if the server is silent, the page says so. */
async function ask() {
  clearTimeout(live.timer);
  const { sweep } = live;
  let seconds = 5;
  try {
    const query = new URLSearchParams({ sweep, since: page.data.version ?? "" });
    const answer = await fetch(`${live.address}?${query}`, { cache: "no-store" });
    const news = await answer.json();
    if (sweep !== live.sweep) return;
    seconds = news.again;
    if (news.drawing) show(news);
    else page.data.progress = news.progress;
    fillProgress();
  } catch {
    if (sweep !== live.sweep) return;
    byId("progress").hidden = false;
    byId("note").textContent = "The server does not answer; these are the last rows it sent.";
  }
  live.timer = setTimeout(ask, 1000 * seconds);
}

/** Shows how a sweep is doing: a line, and the cells that are not done. */
function fillProgress() {
  const { progress } = page.data;
  byId("progress").hidden = !progress;
  if (!progress) return;
  // Set only where it changes, because screen readers read it out each time.
  if (byId("note").textContent !== progress.note) byId("note").textContent = progress.note;
  const body = element("tbody");
  for (const cell of progress.cells ?? []) {
    const line = body.insertRow();
    cell.forEach((text, i) => line.append(element("td", text, { className: i === 1 && text === "failed" ? "trouble" : "" })));
  }
  byId("cells").replaceChildren(body);
  byId("cells").closest("details").hidden = !body.rows.length;
}

/** Fills the chooser of sweeps, the settings in which they differ, and their cells in columns. */
function fillSweeps() {
  const { sweeps } = page.data;
  byId("sweep-label").hidden = byId("compare").hidden = !sweeps;
  if (!sweeps) return;
  const { names, chosen, settings, cells } = sweeps;
  options(byId("sweep"), names.map((name, i) => [String(i), name]), String(chosen));
  fillTable("differing", ["setting", ...names], settings.map(([name, values]) => [name, ...values]), "the same settings in all");
  const words = ["model", "evaluation", "method", "regime", "target"];
  const told = [0, 1, 2, 3, 4].filter((i) => i > 1 || new Set(cells.map(([key]) => key[i])).size > 1);
  const head = [...told.map((i) => words[i]), ...names.flatMap((name, i) => (i ? [name, "to the first"] : [name]))];
  const lines = cells.map(([key, values]) => [...told.map((i) => key[i]), ...values.flatMap((value, i) => (i ? [seeds(value), change(values[0], value)] : [seeds(value)]))]);
  fillTable("compared", head, lines, "no cells yet");
}

/** A cell of one sweep, or why it has no perplexity. */
function seeds(value) {
  if (!value) return "";
  const [mean, std, count, status] = value;
  if (!finite(mean)) return status.replace("_", " ");
  return told({ mean, std }) + (count > 1 ? ` (${count} seeds)` : "") + (status === "done" ? "" : " !");
}

/** Says by how much a sweep differs from the first, and if seeds support that. */
function change(first, value) {
  if (!first || !value || !finite(first[0]) || !finite(value[0])) return "";
  const share = `${value[0] >= first[0] ? "+" : "−"}${Math.abs((value[0] / first[0] - 1) * 100).toFixed(1)} %`;
  if (first[0] === value[0]) return "the same number";
  if (first[1] === null || value[1] === null) return share;
  return Math.abs(value[0] - first[0]) > 2 * Math.hypot(first[1], value[1]) ? `${share}, clear` : `${share}, within the spread`;
}
