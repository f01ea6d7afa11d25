// Views of perplexity against what a cell costs or leaves: size, tokens, seconds. A step line is the front.

/** All whole points by a measure; a step line joins those that no point beats in both. */
function sizeTraces(measure) {
  return (lines, among) => {
    const traces = lines.filter((line) => !line.control).flatMap((line) => {
      const entries = line.points.filter((p) => finite(p[measure]) && finite(p.y)).map((point) => ({ line, point }));
      const isOfStructure = ({ point }) => point.target.includes(":");
      const plain = markTrace(entries.filter((entry) => !isOfStructure(entry)), measure, among);
      const structured = markTrace(entries.filter(isOfStructure), measure, among); // No line leads to a structure.
      return [plain, { ...structured, mode: "markers" }].filter(({ x }) => x.length);
    });
    return [...traces, frontTrace(lines.flatMap((line) => (line.control ? [] : line.points)), measure)];
  };
}

/** Points of the chosen target by a measure, with their names. */
function costTraces(measure) {
  return (lines, among) => {
    const entries = pointsAt(lines.filter((line) => !line.control), target()).filter(({ point }) => finite(point.y));
    const used = entries.filter(({ point }) => finite(point[measure]));
    const few = used.length <= 16;
    const height = ({ point }) => heightOf(point);
    // Lines that share a cell, or its weights, stand at one place: it has one label with all names.
    const label = (entry) => {
      const same = used.filter((e) => e.point[measure] === entry.point[measure] && height(e) === height(entry));
      return same[0] === entry ? same.map(({ line }) => nameOf(line, among)).join(" = ") : "";
    };
    const traces = used.map((entry) => ({
      ...markTrace([entry], measure, among),
      mode: few ? "markers+text" : "markers",
      text: [markup(` ${label(entry)}`)],
      textposition: "middle right",
      cliponaxis: false,
    }));
    return [...traces, frontTrace(used.map(({ point }) => point), measure)];
  };
}

/** Points by measured seconds, of dense kernels and (hollow, named) sparse ones, and the dense model's time. */
function speedTraces(lines, among) {
  const pruned = lines.filter((line) => !line.control);
  const all = ["", "sparse_"].flatMap((kernels) => pruned.map((line) => {
    const measure = `${kernels}${field()}_seconds`;
    const points = line.points.filter((point) => finite(point[measure]) && finite(point.y));
    const trace = markTrace(points.map((point) => ({ line, point })), measure, among);
    const array = points.map((point) => (point[measure.replace("_seconds", "_spread")] ?? 0) / 2);
    const bars = { type: "data", array, color: trace.marker.color, thickness: 1, width: 2 };
    const drawn = { ...trace, mode: "markers", error_x: bars };
    if (!kernels) return drawn;
    const symbol = trace.marker.symbol.map((name) => `${name.replace("-open", "")}-dot`);
    const hovertext = trace.hovertext.map((text) => `${text}, sparse kernels`);
    return { ...drawn, marker: { ...trace.marker, symbol }, hovertext };
  })).filter(({ x }) => x.length);
  const seen = extent(all);
  if (!seen) return [];
  const dense = shownBoards().map(({ gains }) => gains.dense[`${field()}_seconds`]).filter(finite);
  const level = dense.map((seconds) => ({
    ...HOVER, mode: "lines", x: [seconds, seconds], y: seen, meta: { kind: "dense" },
    line: { color: GREY, width: 2, dash: "dot" }, hovertext: Array(2).fill(`dense: ${shown(seconds)} s`), name: "dense",
  }));
  return [...level, ...all];
}

function speedCaption() {
  const what = field() === "decode" ? "Seconds to decode one token" : "Seconds to read the prompt";
  const others = page.data.other_devices;
  const left_out = others.length ? ` Measured elsewhere and left out: ${others.join("; ")}.` : "";
  const marks = "bars hold the middle half of all times; the dotted grey line is the dense model";
  return `${what}, medians; ${marks}. ${gained(field())}${left_out} Marks with a dot: sparse kernels.`;
}

function markTrace(entries, measure, among) {
  const look = entries.length ? lookOf(entries[0].line) : { color: GREY, symbol: "circle", dash: "dot" };
  const line = entries[0]?.line;
  const words_of = ({ line: of, point }) => `${nameOf(of, among)} at ${point.target}: ${pointText(point)}`;
  return {
    ...HOVER,
    mode: entries.length > 1 ? "lines+markers" : "markers",
    x: entries.map(({ point }) => point[measure]),
    y: entries.map(({ point }) => heightOf(point)),
    hovertext: entries.map((entry) => markup(`${words_of(entry)}, ${shown(entry.point[measure])}`)),
    customdata: entries.map((entry) => [entry.line.id, entry.point.target]),
    line: { color: look.color, width: 1.5, dash: look.dash },
    marker: {
      color: look.color, size: 8,
      symbol: entries.map(({ point }) => look.symbol + (point.whole ? "" : "-open")),
    },
    opacity: line && !isPicked(line) ? 0.15 : 1,
    name: line ? markup(nameOf(line, among)) : "",
    meta: { kind: "curve", line: line?.id, method: line?.at.method },
  };
}

/** The front: no whole point has both less of the measure and a lower perplexity. */
function frontTrace(points, measure) {
  const whole = points.filter((p) => p.whole && finite(p[measure]));
  const sorted = whole.sort((a, b) => a[measure] - b[measure] || a.y - b.y);
  const front = [];
  for (const point of sorted) {
    if (!front.length || heightOf(point) < heightOf(front.at(-1))) front.push(point);
  }
  return {
    type: "scatter", mode: "lines", hoverinfo: "skip", x: front.map((p) => p[measure]), y: front.map(heightOf),
    line: { color: color("--quiet"), width: 5, shape: "hv" }, opacity: 0.25, meta: { kind: "front" }, name: "front",
  };
}

/** The numbers of a figure of perplexities. */
function pointTable(lines, among) {
  const head = ["line", "target", "perplexity", "× dense", "seeds", "state"];
  head.push("weights left", "training tokens", "seconds");
  const body = lines.flatMap((line) => line.points.map((p) => [
    nameOf(line, among), p.target, told(p.y, p.std), finite(p.ratio) ? p.ratio.toFixed(3) : "", `${p.n} of ${p.of}`,
    p.status.replace("_", " "), shown(p.params), shown(p.tokens), shown(p.seconds),
  ]));
  return { head, body };
}
