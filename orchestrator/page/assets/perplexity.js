// Traces of the views of perplexity: against sparsity, size, and cost.

const HOVER = { hovertemplate: "%{hovertext}<extra></extra>", type: "scatter" };

/** Where each target stands on the axis: structures have columns of their own, to the right. */
function positions(lines) {
  const places = new Map();
  const structured = new Set();
  for (const point of lines.flatMap((line) => line.points)) {
    if (point.target.includes(":")) structured.add(point.target);
    else places.set(point.target, point.x);
  }
  const plain = [...places.values()];
  const [low, high] = [Math.min(...plain), Math.max(...plain)];
  const step = plain.length ? Math.max(0.06, (high - low) / 8) : 1;
  [...structured].sort().forEach((name, i) => places.set(name, (plain.length ? high : 0) + step * (i + 1)));
  return places;
}

/** For each target the texts of all shown lines there, the lowest first. */
function standings(lines, among) {
  const found = new Map();
  for (const line of lines) {
    for (const point of line.points) {
      if (!finite(point.y)) continue;
      const ratio = finite(point.ratio) ? ` = ${point.ratio.toFixed(2)}×` : "";
      const words = markup(`${nameOf(line, among)}: ${pointText(point)}${ratio}`);
      if (!found.has(point.target)) found.set(point.target, []);
      found.get(point.target).push({ line, point, words });
    }
  }
  for (const entries of found.values()) entries.sort((a, b) => heightOf(a.point) - heightOf(b.point));
  const text = (entries, self) => {
    const most = 14;
    const seen = entries.slice(0, most).concat(entries.slice(most).filter(({ line }) => line === self));
    const lines = seen.map(({ line, words }) => (line === self ? `<b>${words}</b>` : words));
    const rest = entries.length - seen.length;
    return [...lines, ...(rest > 0 ? [`and ${rest} more`] : [])].join("<br>");
  };
  return (line, point) => `<b>${markup(point.target)}</b><br>${text(found.get(point.target) ?? [], line)}`;
}

/** Lines over the positions of targets, with a band for the spread over seeds. */
function sparsityTraces(lines, among, places) {
  const hover = standings(lines, among);
  return lines.flatMap((line) => {
    const look = lookOf(line);
    const points = line.points.filter((point) => !point.target.includes(":"));
    const structured = line.points.filter((point) => point.target.includes(":") && finite(point.y));
    const faint = isPicked(line) ? 1 : 0.15;
    const trace = (members, more) => ({
      ...HOVER,
      x: members.map((p) => places.get(p.target)),
      y: members.map((p) => (finite(p.y) ? heightOf(p) : null)),
      hovertext: members.map((p) => hover(line, p)),
      customdata: members.map((p) => [line.id, p.target]),
      name: markup(nameOf(line, among)),
      opacity: faint,
      meta: { kind: line.control ? "control" : "curve", line: line.id, method: line.at.method, regime: line.at.regime },
      ...more,
    });
    const symbols = points.map((p) => look.symbol + (p.whole || look.symbol.endsWith("-open") ? "" : "-open"));
    const drawn = trace(points, {
      mode: line.control ? "lines" : "lines+markers",
      line: { color: look.color, width: 2, dash: look.dash },
      marker: { color: look.color, size: 7, symbol: symbols },
    });
    const rim = { color: look.color, size: 12, symbol: look.symbol, line: { color: "white", width: 1.5 } };
    const spreadOf = (p) => (p.std === null ? 0 : p.std * (heightOf(p) / p.y));
    const bars = { type: "data", array: structured.map(spreadOf), color: look.color };
    const single = structured.length ? [trace(structured, { mode: "markers", marker: rim, error_y: bars })] : [];
    return [...bandTraces(points, places, spreadOf, look, faint), drawn, ...single];
  });
}

/** A polygon of mean ± deviation for each unbroken run of points with seeds. */
function bandTraces(points, places, spreadOf, look, faint) {
  const runs = [[]];
  for (const p of points) {
    if (finite(p.y) && p.std !== null) runs.at(-1).push(p);
    else runs.push([]);
  }
  const floor = (p) => Math.max(heightOf(p) - spreadOf(p), 0.2 * heightOf(p));
  return runs.filter((run) => run.length > 1).map((run) => ({
    type: "scatter", mode: "lines", fill: "toself", fillcolor: look.color, hoverinfo: "skip", line: { width: 0 },
    opacity: 0.18 * faint, meta: { kind: "band" },
    x: [...run, ...run.toReversed()].map((p) => places.get(p.target)),
    y: [...run.map((p) => heightOf(p) + spreadOf(p)), ...run.toReversed().map(floor)],
  }));
}

/** Marks of cells without a value, in a lane above the plot. */
function laneTraces(lines, among, places) {
  const symbols = { failed: "x-thin", "non-finite": "triangle-up", stopped: "square", not_run: "line-ew" };
  const stacked = new Map();
  return lines.filter((line) => !line.control).flatMap((line) => {
    const lost = line.points.filter((p) => !finite(p.y));
    if (!lost.length) return [];
    const { color } = lookOf(line);
    const heights = lost.map((p) => {
      stacked.set(p.target, (stacked.get(p.target) ?? 0) + 1);
      return (stacked.get(p.target) - 1) % 6;
    });
    return [{
      ...HOVER, mode: "markers", x: lost.map((p) => places.get(p.target)), y: heights,
      marker: { symbol: lost.map((p) => symbols[p.status]), color, size: 8, line: { width: 2, color } },
      hovertext: lost.map((p) => markup(`${nameOf(line, among)} at ${p.target}: ${pointText(p)}`)),
      customdata: lost.map((p) => [line.id, p.target]), opacity: isPicked(line) ? 1 : 0.2,
      meta: { kind: "trouble", line: line.id, method: line.at.method },
    }];
  });
}

/** The dense model, and hollow marks for values of papers. */
function referenceTraces({ boards, among }, places) {
  const ends = [Math.min(...places.values()), Math.max(...places.values())];
  const dense = boards.filter((board) => finite(board.dense) && places.size).slice(0, state.y === "ratio" ? 1 : 9);
  const level = (board) => (state.y === "ratio" ? 1 : board.dense);
  const drawn = dense.map((board) => ({
    ...HOVER, mode: "lines", line: { color: GREY, width: 2 }, x: ends, y: [level(board), level(board)],
    hovertext: Array(2).fill(markup(`dense ${told(board.dense)}`)), meta: { kind: "dense" }, name: "dense",
  }));
  if (isHidden("reference", "published")) return drawn;
  const ids = new Set(boards.map((board) => board.id));
  const run = new Set(among.map((line) => line.at.method)); // A panel of one method shows its values alone.
  const values = page.data.published.filter(
    ({ board, method }) => ids.has(board) && run.has(method) && !isHidden("method", method),
  );
  const marks = values.map((value) => ({
    ...HOVER, mode: "markers", x: [places.get(value.target)], y: [state.y === "ratio" ? value.ratio : value.y],
    hovertext: [value.told.map(markup).join("<br>")], meta: { kind: "published", method: value.method },
    marker: { symbol: "circle-open", size: 12, color: colorOf("method", value.method) },
  }));
  return [...drawn, ...marks];
}

const colorOf = (name, value) => dimension(name)?.values.find((each) => each.value === value)?.color ?? GREY;
