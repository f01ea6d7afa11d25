// Traces of the views of stages: error and sparsity of each matrix, and the losses of training.

/** The shown points of the chosen target, those with the same prune stages once. */
function prunedAlike(page) {
  const { stages } = page.data.details;
  const found = new Map();
  for (const point of shownPoints(page).filter(({ target }) => target === page.state.target)) {
    const pruned = [...new Set(point.rows.map((row) => stages?.[row.stage_id]?.[0]).filter(Boolean))].sort();
    const key = pruned.join();
    if (!key) continue;
    const name = point.trace.meta;
    if (found.has(key)) found.get(key).labels.push(name.label);
    else found.set(key, { pruned, point, method: name.method, labels: [name.label] });
  }
  return [...found.values()];
}

/** `...layers.3.self_attn.q_proj` -> block 3 and `q_proj`; a name without a number is its own kind. */
function placeOf(name) {
  const [, block, kind] = /\.(\d+)\.(.+)$/.exec(name) ?? [null, "0", name];
  return { block: Number(block), kind: kind.split(".").at(-1) };
}

/** Lines of one value (`errors` or `sparsity`) over blocks, a panel for each kind of matrix. */
function layerTraces(page, field) {
  const { layers, names } = page.data.details;
  const kinds = [];
  const traces = [];
  for (const { pruned, point, method, labels } of prunedAlike(page)) {
    const stages = pruned.map((stage) => layers[stage]).filter((stage) => stage?.[field] !== null && stage?.[field] !== undefined);
    if (!stages.length) continue;
    const byKind = new Map();
    names[stages[0].names].forEach((name, i) => {
      const measured = spread(stages, (stage) => (Array.isArray(stage[field]) ? stage[field][i] : stage[field]));
      const { block, kind } = placeOf(name);
      if (!measured.n) return;
      if (!kinds.includes(kind)) kinds.push(kind);
      byKind.set(kind, [...(byKind.get(kind) ?? []), { block, name, measured }]);
    });
    const label = `${method} · ${labels.join(", ")}`;
    const kept = stages[0].statistic === "InputNorms" && field === "errors" ? " (norms of inputs only)" : "";
    let first = true;
    for (const [kind, cells] of byKind) {
      const axis = kinds.indexOf(kind) || "";
      const suffix = axis ? axis + 1 : "";
      traces.push({
        type: "scatter",
        mode: "lines+markers",
        x: cells.map(({ block }) => block),
        y: cells.map(({ measured }) => measured.mean),
        xaxis: `x${suffix}`,
        yaxis: `y${suffix}`,
        name: markup(label + kept),
        legendgroup: label,
        showlegend: first,
        line: { color: point.trace.line.color, width: 1.5, dash: point.trace.line.dash },
        marker: { color: point.trace.line.color, size: 6, symbol: kept ? "circle-open" : point.trace.marker.symbol.replace("-dot", "") },
        hovertext: cells.map(({ name, measured }) => markup(`${label}\n${name}\n${field === "errors" ? "relative error" : "sparsity"} ${shown(measured.mean)}${measured.std === null ? "" : ` ± ${shown(Number(measured.std.toPrecision(2)))}`}${kept}`)),
        hovertemplate: "%{hovertext}<extra></extra>",
        customdata: cells.map(() => point.keys),
        meta: { kind: "layer", method, labels, panel: kind },
      });
      first = false;
    }
  }
  return traces;
}

/** Training loss of every shown row of the target, and of the dense control, over its tokens. */
function lossTraces(page) {
  const rows = shownPoints(page).filter(({ target }) => target === page.state.target).flatMap(({ trace, rows }) => rows.map((row) => [trace, row]));
  const control = page.data.drawing.data.find((trace) => trace.meta.kind === "control" && isShown(trace, page.state));
  if (control?.customdata.length) rows.push(...control.customdata.at(-1).map((key) => [control, page.rowOf.get(key)]));
  const named = new Set();
  return rows.flatMap(([trace, row]) => {
    const { x, y } = lossCurve(page.data.details, row);
    const { method, label } = trace.meta;
    const name = `${method} · ${label}`;
    const first = !named.has(name);
    if (x.length) named.add(name);
    const color = trace.line.color;
    return x.length ? [{
      type: "scatter",
      mode: "lines",
      x,
      y,
      name: markup(name),
      legendgroup: name,
      showlegend: first,
      line: { color, width: 1.5, dash: trace.line.dash },
      hovertemplate: `${markup(`${name}${row.seed === null ? "" : `, seed ${row.seed}`}`)}<br>%{x:,} tokens, loss %{y:.3f}<extra></extra>`,
      customdata: x.map(() => [row.key]),
      meta: { kind: "loss", method, label },
    }] : [];
  });
}

/** Rounds one after the other; the line breaks between two, where weights were pruned. */
function lossCurve({ stages, losses }, row) {
  const x = [];
  const y = [];
  let before = 0;
  for (const stage of stages?.[row.stage_id]?.[1] ?? []) {
    const { tokens, resumed, values } = losses[stage];
    if (x.length) {
      x.push(before);
      y.push(null);
    }
    values.forEach((value, i) => {
      x.push(Math.round(before + tokens * (resumed + ((1 - resumed) * (i + 1)) / values.length)));
      y.push(value);
    });
    before += tokens;
  }
  return { x, y };
}
