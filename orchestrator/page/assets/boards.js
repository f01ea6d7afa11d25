// Answers and heat tables, which Python wrote as HTML: shows those of the chosen boards, and marks choices.

/** Puts the boards that news brought in place of the old ones. */
function fillBoards(boards) {
  const place = byId("boards");
  const wanted = new Set(page.data.boards.map(({ id }) => id));
  place.querySelectorAll(".board").forEach((old) => { if (!wanted.has(old.dataset.board)) old.remove(); });
  for (const { id, html } of boards) {
    const parsed = new DOMParser().parseFromString(html, "text/html").querySelector(".board");
    const old = place.querySelector(`[data-board="${id}"]`);
    if (old) old.replaceWith(parsed);
    else place.append(parsed);
  }
}

function drawBoards() {
  const shown_boards = new Set(shownBoards().map(({ id }) => id));
  document.documentElement.classList.toggle("spread", shown_boards.size > 1);
  const at = target();
  for (const each of document.querySelectorAll(".board")) {
    const board = /** @type {HTMLElement} */ (each);
    board.classList.toggle("chosen", shown_boards.has(board.dataset.board));
    const tolerances = [state.tol, state.tol === "2" ? "1.1" : "2"];
    board.querySelectorAll(".within").forEach((line) => {
      const { tolerance } = /** @type {HTMLElement} */ (line).dataset;
      /** @type {HTMLElement} */ (line).hidden = !tolerances.includes(tolerance);
      line.classList.toggle("second", tolerance !== state.tol);
    });
    const targets = page.data.boards.find(({ id }) => id === board.dataset.board)?.targets ?? [];
    const mine = targets.includes(at) ? at : board.dataset.start;
    board.querySelectorAll(".finding").forEach((told_here) => {
      const { dataset } = /** @type {HTMLElement} */ (told_here);
      /** @type {HTMLElement} */ (told_here).hidden = dataset.target !== mine;
    });
    board.querySelectorAll("thead [data-at]").forEach((each_target) => {
      const here = /** @type {HTMLElement} */ (each_target).dataset.at === mine;
      if (here) each_target.closest("th").setAttribute("aria-current", "true");
      else each_target.closest("th").removeAttribute("aria-current");
    });
    board.querySelectorAll("tr[data-line]").forEach((line) => {
      const { dataset } = /** @type {HTMLElement} */ (line);
      line.classList.toggle("picked", state.pick.includes(dataset.line));
      line.querySelector("[data-pick]").setAttribute("aria-pressed", String(state.pick.includes(dataset.line)));
    });
  }
}

/** Clicks in answers and heat tables. */
function onBoards(event) {
  const { at, pick, cell } = event.target.closest("button")?.dataset ?? {};
  const add = event.shiftKey || event.ctrlKey || event.metaKey;
  if (at) set({ at });
  else if (pick) pickLine(pick, add);
  else if (cell) {
    const { line } = event.target.closest("tr").dataset;
    openCell(line, cell);
  }
}

/** Shows a line alone; with Shift it goes to those that are shown already. */
function pickLine(id, add) {
  if (add) set({ pick: toggled(state.pick, id) });
  else set({ pick: state.pick.length === 1 && state.pick[0] === id ? [] : [id] });
}

/** The reason why Python did not compare two lines. */
function whyNotCompared(one, other) {
  const differ = ["sweep", "model"].filter((name) => one.at[name] !== other.at[name]);
  const none = "These two are not compared:";
  if (differ.length > 1) return `${none} both sweep and model differ.`;
  if (differ.length && one.name !== other.name) return `${none} the ${differ[0]} differs, and the line too.`;
  if (page.data.all_pairs) return `${none} their evaluations differ.`;
  return `${none} a page of so many lines leaves some pairs out. A page of fewer models or sweeps has them.`;
}

/** The comparison of the first two picked lines, as Python made it. */
function drawCompared() {
  const [one, other] = state.pick.map((id) => page.lines.get(id)).filter(Boolean);
  byId("compare").hidden = !other;
  const pair = other ? `${one.id} ${other.id}` : "";
  const fresh = page.drawn && pair && pair !== page.pair;
  page.pair = pair;
  if (!other) return;
  // The comparison stands below the figure, where a reader who has just picked a line does not look.
  if (fresh) requestAnimationFrame(() => byId("compare").scrollIntoView({ block: "nearest" }));
  const turned = page.data.pairs[`${other.id} ${one.id}`];
  const found = page.data.pairs[`${one.id} ${other.id}`] ?? turned;
  const [first, second] = turned && found === turned ? [other, one] : [one, other];
  const name = (line) => [line.at.sweep, line.at.model, line.name].filter(Boolean).join(" · ");
  const place = byId("compared");
  const say = element("p", `Difference of ${name(second)} to ${name(first)}, over seeds.`);
  if (!found) {
    place.replaceChildren(say, element("p", whyNotCompared(first, second)));
    return;
  }
  const at = (line, label) => line.points.find((p) => p.target === label);
  const table = element("table");
  const titles = ["target", first.name, second.name, "difference", "95 % interval", "verdict"];
  const both = (label) => [first, second].map((line) => pointText(at(line, label)));
  const lines = found.targets.map(([label, ...rest]) => [label, ...both(label), ...rest]);
  fillTable(table, titles, lines, "no common target");
  const differ = element("table");
  const none = "No setting differs but method, regime, model or sweep.";
  fillTable(differ, ["setting", first.name, second.name], found.differ, none);
  const scroll = (made, label) => {
    const around = element("div", undefined, { className: "scroll", tabIndex: 0, role: "region", ariaLabel: label });
    around.append(made);
    return around;
  };
  place.replaceChildren(say, scroll(table, "Differences at each target"), scroll(differ, "Settings that differ"));
}
