// The answer in words: the best at each target, and how sure that is.

const NO_CELL = "no finished cell among these yet";
const NOISE = 2; // A lead is clear above this many joint standard deviations over seeds.

/** The finished points of a facet by target, the lowest perplexity first; `all` ignores the ticks. */
function ranking(page, all) {
  const targets = new Map();
  for (const point of shownPoints(page, all)) {
    const measured = spread(point.rows, (row) => row.perplexity);
    // A number that no seed changes was computed once and has no spread.
    if (point.rows.every((row) => row.seed === null)) measured.std = 0;
    const tokens = spread(point.rows, (row) => row.num_finetune_tokens).mean || 0;
    const { method, label } = point.trace.meta;
    const entry = { ...measured, tokens, x: point.x, method, labels: [label], name: `${method} · ${label}`, rows: point.rows };
    const entries = targets.get(point.target) ?? [];
    const same = entries.find((other) => stagesOf(other) === stagesOf(entry));
    if (same) {
      same.labels.push(label);
      same.name = `${method} · ${same.labels.join(" = ")}`;
    } else targets.set(point.target, [...entries, entry]);
  }
  for (const entries of targets.values()) entries.sort((a, b) => a.mean - b.mean);
  return targets;
}

/** Key of an entry: regimes that share a stage, as fine-tuning and the first iterative round do, are one model. */
const stagesOf = ({ rows }) => [...new Set(rows.map((row) => row.stage_id ?? row.key))].sort().join();
const percent = (part) => `${(part * 100).toFixed(Math.abs(part) < 0.0995 ? 1 : 0)}\u00a0%`;
const signed = (part) => `${part < 0 ? "−" : "+"}${percent(Math.abs(part))}`;
const seedCount = (n) => `${n} seed${n === 1 ? "" : "s"}`;

function denseOf(entry) {
  return spread(entry.rows, (row) => row.dense_perplexity).mean;
}

/** Says if seeds support a lead: a word for the table, and a sentence with the figures. */
function certainty(page, first, second) {
  if (!second) return ["the only one", "Nothing else has a perplexity here, so there is nothing to compare it with."];
  const lead = second.mean - first.mean;
  const told_lead = `Its lead over ${second.name} is ${told({ mean: lead, std: null })} (${percent(lead / first.mean)})`;
  if (lead === 0) return ["none: the same number", `Tie: ${second.name} gives the same number${second.tokens < first.tokens ? " with less training" : ""}.`];
  if (first.std !== null && second.std !== null) {
    const noise = Math.hypot(first.std, second.std);
    const few = Math.min(...[first, second].map((entry) => (entry.std ? entry.n : 3))) < 3 ? " Two seeds tell the spread only roughly." : "";
    const each = aheadOnEach(first, second);
    if (lead > NOISE * noise) {
      const times = noise > 0 ? `, ${(lead / noise).toFixed(1)} times the joint standard deviation over seeds` : ", and neither depends on a seed";
      return ["clear", `Clear: ${lowered(told_lead)}${times}.${each}${few}`];
    }
    return ["within the spread of seeds", `Not sure: ${lowered(told_lead)}, which is ${(lead / noise).toFixed(1)} times the joint standard deviation over seeds; a clear lead takes ${NOISE}.${each}${few}`];
  }
  return ["unknown: single seed", `Not known: ${lowered(told_lead)}, with a single seed, so its spread is not known.${papers(page, first, lead)} Run the command again with --seeds 0 1 2 to learn it.`];
}

const lowered = (text) => text[0].toLowerCase() + text.slice(1);

/** Says on how many common seeds the first is ahead: equal seeds draw equal texts. */
function aheadOnEach(first, second) {
  const bySeed = new Map(second.rows.map((row) => [row.seed, row.perplexity]));
  const pairs = first.rows.filter((row) => row.seed !== null && finite(row.perplexity) && finite(bySeed.get(row.seed)));
  if (pairs.length < 2) return "";
  const ahead = pairs.filter((row) => row.perplexity < bySeed.get(row.seed)).length;
  return ` It is ahead on ${ahead} of ${pairs.length} seeds.`;
}

/** Says what papers report of the spread near this target. */
function papers(page, { x }, lead) {
  const near = (page.data.spreads ?? []).filter(({ sparsity }) => Math.abs(sparsity - x) < 0.051);
  if (!near.length) return "";
  const worst = near.reduce((a, b) => (a.relative > b.relative ? a : b));
  return ` For scale: ${worst.model} at ${worst.target} varies by ${percent(worst.relative)} over seeds (${worst.source}).`;
}

/** Writes the summary in words at the chosen target, and a table of everything there. */
function drawAnswer(page) {
  const { state } = page;
  const entries = ranking(page, true).get(state.target) ?? [];
  const lines = entries.length ? sentences(page, entries) : [["No cell of this target has a perplexity yet."]];
  const lost = lostCells(page);
  if (lost.length) lines.push([`Left out, having no perplexity: ${lost.join("; ")}.`]);
  byId("verdict").replaceChildren(...lines.map((parts) => {
    const line = element("p");
    line.append(...parts);
    return line;
  }));
  fillTable("answer-table", ["#", "method · regime", "perplexity", "to dense", "training tokens", "seconds", "behind the first"], entries.map((entry, i) => {
    const cost = spread(entry.rows, (row) => (row.prune_seconds ?? 0) + (row.finetune_seconds ?? 0)).mean;
    const behind = i ? signed(entry.mean / entries[0].mean - 1) : "";
    const dense = denseOf(entry);
    return [String(i + 1), entry.name, told(entry), finite(dense) ? signed(entry.mean / dense - 1) : "", entry.tokens.toLocaleString("en"), shown(Number(cost.toPrecision(3))), behind];
  }), NO_CELL);
}

function sentences(page, [first, second, ...others]) {
  const dense = denseOf(first);
  const side = first.mean < dense ? "below" : "above";
  const change = finite(dense) ? `: ${percent(Math.abs(first.mean / dense - 1))} ${side} the dense model's ${told({ mean: dense, std: null })}` : "";
  const strong = (text) => element("strong", text);
  const trained = first.tokens ? `, after ${first.tokens.toLocaleString("en")} training tokens` : ", without training";
  const lines = [["Lowest perplexity: ", strong(first.name), " with ", strong(told(first)), ` (${first.rows.some((row) => row.seed !== null) ? seedCount(first.n) : "no seed plays a part"})${trained}${change}.`]];
  lines.push([strong("How sure? "), certainty(page, first, second)[1]]);
  if (first.tokens && second && second.tokens < first.tokens) lines.push([`${second.name} trained on ${second.tokens.toLocaleString("en")} tokens, so some of the lead may be training.`]);
  const without = [first, second, ...others].find((entry) => entry && !entry.tokens);
  if (first.tokens && without) lines.push(["Best without training: ", strong(without.name), ` with ${told(without)}.`]);
  const control = controlAt(page, first);
  if (first.tokens && control && finite(dense)) {
    const moved = control.mean / dense - 1;
    const meaning = moved < -0.005 ? "so part of what training wins back is adaptation to the text" : "so what training wins back is not adaptation to the text";
    lines.push([`The same training takes the dense model from ${told({ mean: dense, std: null })} to ${told(control)}, ${meaning}.`]);
  }
  return lines;
}

/** The dense model after the same kind and amount of training as an entry. */
function controlAt(page, { x, rows }) {
  for (const trace of page.data.drawing.data) {
    const at = trace.meta.kind === "control" && trace.meta.facet === page.state.facet ? trace.x.indexOf(x) : -1;
    if (at < 0 || !finite(trace.y[at])) continue;
    const trained = trace.customdata[at].map((key) => page.rowOf.get(key));
    if (trained[0].finetune_settings === rows[0].finetune_settings) return spread(trained, (row) => row.perplexity);
  }
  return null;
}

/** Method, regime and trouble of cells without a perplexity at the chosen target. */
function lostCells(page) {
  const counts = new Map();
  for (const [key, facet] of page.facetOf) {
    const row = page.rowOf.get(key);
    if (facet !== page.state.facet || row.method === "dense" || targetOf(row) !== page.state.target) continue;
    if (row.status === "done" && finite(row.perplexity)) continue;
    const trouble = row.status === "done" ? `perplexity ${row.perplexity}` : row.status.replace("_", " ");
    const name = `${row.method} · ${row.regime} (${trouble})`;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts].map(([name, n]) => (n > 1 ? `${name}, ${n} times` : name));
}

/** Fills the table of the best method and regime at each target, with how sure its lead is. */
function drawBest(page) {
  const ordered = [...ranking(page, false)].sort(([a, [p]], [b, [q]]) => a.includes(":") - b.includes(":") || p.x - q.x);
  const titles = ["target", "best", "perplexity", "to dense", "training tokens", "next best", "lead"];
  fillTable("best", titles, ordered.map(([target, [first, second]]) => {
    const dense = denseOf(first);
    const change = finite(dense) ? signed(first.mean / dense - 1) : "";
    const next = second ? `${second.name} ${told(second)}` : "";
    return [target, first.name, told(first), change, first.tokens.toLocaleString("en"), next, certainty(page, first, second)[0]];
  }), NO_CELL);
}
