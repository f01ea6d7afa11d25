// The view of layers: a heat map of blocks and matrices at a target, one line, or one against another.

/** `...layers.3.self_attn.q_proj` -> block 3 and `q_proj`; a name without a number is its own kind. */
function placeIn(name) {
  const [, block, kind] = /\.(\d+)\.(.+)$/.exec(name) ?? [null, "0", name];
  return { block: Number(block), kind: kind.split(".").at(-1) };
}

/** Mean over seeds of one value of each matrix in the last prune stage of a point. */
function matrices(point, field) {
  const { stages = {}, layers = {}, names = [] } = page.data.details;
  const pruned = [...new Set(point.rows.map((i) => stages[valueOf("stage_id", i)]?.[0]).filter(Boolean))];
  const found = pruned.map((stage) => layers[stage]).filter((stage) => stage && stage[field] !== null);
  if (!found.length) return null;
  const values = names[found[0].names].map((_, i) => {
    const seen = found.map((stage) => (Array.isArray(stage[field]) ? stage[field][i] : stage[field])).filter(finite);
    return seen.reduce((a, b) => a + b, 0) / seen.length;
  });
  return { names: names[found[0].names], values, norms: found[0].statistic === "InputNorms" };
}

/** The line or the two lines whose layers are shown: picked ones, else the lowest that has any. */
function layerLines(lines) {
  const entries = pointsAt(lines.filter((line) => !line.control), target());
  const read = entries.map((entry) => ({ ...entry, told: matrices(entry.point, field()) }));
  const known = read.filter((entry) => entry.told);
  const picked = state.pick.map((id) => known.find(({ line }) => line.id === id)).filter(Boolean);
  const lowest = known.filter(({ point }) => point.whole).sort((a, b) => a.point.y - b.point.y);
  const first = picked[0] ?? lowest[0] ?? known[0];
  return first ? [first, ...picked.slice(1, 2)] : [];
}

/** Each matrix with its value; of two lines, the second's value over the first's. */
function layerValues(lines) {
  const [one, other] = layerLines(lines);
  if (!one) return null;
  const against = other && other.told.names.length === one.told.names.length ? other : null;
  const cells = one.told.names.map((name, i) => {
    const value = against ? against.told.values[i] / one.told.values[i] : one.told.values[i];
    return { name, ...placeIn(name), value };
  }).filter(({ value }) => finite(value));
  return { cells, one, other: against };
}

function layerTraces(lines) {
  const found = layerValues(lines);
  if (!found || !found.cells.length) return [];
  const { cells, other } = found;
  const blocks = new Set(cells.map(({ block }) => block)).size;
  const kinds = new Set(cells.map(({ kind }) => kind)).size;
  const log = field() === "errors";
  const shade = cells.map(({ value }) => (log ? Math.log10(Math.max(value, 1e-9)) : value));
  const [low, high] = [Math.min(...shade), Math.max(...shade)];
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => low + part * (high - low));
  const room = byId("plot").clientWidth - 260;
  const size = Math.max(7, Math.min(34, room / blocks - 2, (byId("plot").clientHeight - 110) / kinds - 3));
  return [{
    ...HOVER, mode: "markers", x: cells.map(({ block }) => block), y: cells.map(({ kind }) => kind),
    marker: {
      symbol: "square", size, color: shade, colorscale: other ? "RdBu" : "YlOrRd", reversescale: !other,
      cmid: other ? (log ? 0 : 1) : undefined, line: { width: 0.5, color: color("--edge") },
      colorbar: {
        title: { text: other ? "B over A" : VIEW_FIELDS[field()], side: "right" }, thickness: 12,
        tickvals: ticks, ticktext: ticks.map((v) => shown(Number((log ? 10 ** v : v).toPrecision(2)))),
      },
    },
    hovertext: cells.map(({ name, value }) => markup(`${name}: ${shown(value)}`)),
    meta: { kind: "layer" },
  }];
}
const VIEW_FIELDS = { errors: "relative error", sparsity: "sparsity" };

function layerCaption(lines, among) {
  const found = layerValues(lines);
  const what = field() === "errors"
    ? "Change of each layer's output relative to its size, tr(D H Dᵀ) / tr(W H Wᵀ), in the cell's last prune stage. "
      + "0 is no change; 1 is as bad as no layer. Mean over seeds."
    : "Fraction of each matrix that is masked.";
  if (!found) return what;
  const name = ({ line, told: kept }) => nameOf(line, among) + (kept.norms ? " (norms of inputs only)" : "");
  const who = found.other ? `A is ${name(found.one)}, B is ${name(found.other)}; ` : `${name(found.one)}; `;
  return `At ${target()}: ${who}pick one line or two in the table above. ${what}`;
}

/** The ten worst matrices first, then the others. */
function layerTable(lines) {
  const found = layerValues(lines);
  if (!found) return { head: ["matrix"], body: [] };
  const title = found.other ? "B over A" : VIEW_FIELDS[field()];
  const sorted = found.cells.toSorted((a, b) => b.value - a.value);
  return { head: ["worst first", "block", "matrix", title], body: sorted.map(({ name, block, kind, value }, i) => [
    `${i + 1}`, String(block), `${kind} (${name})`, shown(value),
  ]), first: 10 };
}
