// News of running sweeps from the page's own server: only what is new, which is put into what is there.

const live = { address: "", timer: 0, asked: new Set() };

function follow(address) {
  live.address = address;
  live.timer = window.setTimeout(ask, 1000 * (page.data.again ?? 2));
}

/** Asks for news again and again; if the server is silent, the page says so. */
async function ask() {
  clearTimeout(live.timer);
  let seconds = 5;
  try {
    const query = new URLSearchParams({ since: page.data.version ?? "" });
    const answer = await fetch(`${live.address}?${query}`, { cache: "no-store" });
    const news = await answer.json();
    seconds = news.again;
    takeNews(news);
  } catch {
    byId("progress").hidden = false;
    byId("note").textContent = "The server does not answer; these are the last rows it sent.";
  }
  live.timer = window.setTimeout(ask, 1000 * seconds);
}

/** Asks for layers and losses of the shown boards at the chosen target, which a large page does not hold. */
async function askDetails() {
  if (!live.address || !page.data.later || !VIEWS[state.view].staged) return;
  for (const { id } of shownBoards()) {
    const query = new URLSearchParams({ board: id, at: target() }).toString();
    if (live.asked.has(query)) continue;
    live.asked.add(query);
    try {
      const answer = await fetch(`details.json?${query}`, { cache: "no-store" });
      addDetails(await answer.json());
      drawPlot();
    } catch {
      live.asked.delete(query); // The next drawing asks again.
    }
  }
}

/** Puts details of stages to those that the page has; a list of names that is known keeps its number. */
function addDetails(added) {
  const { names = [], ...old } = page.data.details;
  const known = names.map((list) => JSON.stringify(list));
  const all = [...names];
  const numbers = added.names.map((list) => {
    const at = known.indexOf(JSON.stringify(list));
    return at < 0 ? all.push(list) - 1 : at;
  });
  for (const layers of Object.values(added.layers)) layers.names = numbers[layers.names];
  page.data.details = { ...mergedDetails(old, added), names: all };
}

/** Puts news into the page: all, only what has changed, or no more than progress. */
function takeNews(news) {
  if (news.rows || news.changed) live.asked.clear(); // New rows of a target have stages of their own.
  if (news.rows) show(news);
  else if (news.changed) show(merged(page.data, news));
  Object.assign(page.data, { progress: news.progress, version: news.version, again: news.again });
  fillProgress();
}

/** The page's contents with what is new put in its place. */
function merged(old, { changed }) {
  const lists = {};
  for (const name of ["boards", "lines"]) {
    const given = new Map(changed[name].map((each) => [each.id, each]));
    const known = new Map(old[name].map((each) => [each.id, each]));
    lists[name] = changed.order[name].map((id) => given.get(id) ?? known.get(id));
  }
  return {
    ...old, ...changed.parts, ...lists, rows: mergedRows(changed.rows),
    pairs: { ...old.pairs, ...changed.pairs }, fresh: changed.boards,
    details: mergedDetails(old.details, changed.details),
  };
}

/** Rows with new ones put in: columns are made again, without equal values standing once. */
function mergedRows({ count, columns, values }) {
  const given = new Map(values.map(([place, ...row]) => [place, row]));
  const places = Array.from({ length: count }, (_, i) => i);
  const read = (name, at, i) => (given.has(i) ? given.get(i)[at] : valueOf(name, i));
  const made = columns.map((name, at) => [name, [places.map((i) => read(name, at, i))]]);
  return { count, names: rows.names, columns: Object.fromEntries(made) };
}

/** Details of stages with new ones put in. */
function mergedDetails(old, added) {
  const parts = ["stages", "layers", "losses"].map((name) => [name, { ...old[name], ...added[name] }]);
  return { ...Object.fromEntries(parts), names: added.names ?? old.names };
}

/** Shows how a sweep is doing: a line, its trials, the last events, and the cells that are not done. */
function fillProgress() {
  const { progress } = page.data;
  byId("progress").hidden = !progress;
  if (!progress) return;
  // Set only where it changes, because screen readers read it out each time.
  if (byId("note").textContent !== progress.note) byId("note").textContent = progress.note;
  byId("trials").replaceChildren(...(progress.trials ?? []).map(trialMark));
  fillStates("events", "Last events", progress.events ?? []);
  fillStates("cells", "Cells not done", progress.cells ?? []);
  byId("cells").closest("details").hidden = !(progress.events?.length || progress.cells?.length);
}

/** A running trial: its name, a bar, how many of its cells are done, and the one that it is at. */
function trialMark({ name, cells, done, now }) {
  const made = element("span", undefined, { className: "chip" });
  const bar = element("progress", undefined, { max: Math.max(1, cells), value: done, ariaLabel: name });
  const at = now ? `, at ${now}` : "";
  made.append(element("span", name), bar, element("span", `${done} of ${cells}${at}`));
  return made;
}

/** A table of cells with their states and results or errors. */
function fillStates(id, title, lines) {
  const body = element("tbody");
  for (const cell of lines) {
    const line = body.insertRow();
    const trouble = (text, i) => (i === 1 && text === "failed" ? "trouble" : "");
    cell.forEach((text, i) => line.append(element("td", text, { className: trouble(text, i), title: text })));
  }
  byId(id).replaceChildren(element("caption", title), body);
  byId(id).closest(".scroll").hidden = !lines.length;
}
