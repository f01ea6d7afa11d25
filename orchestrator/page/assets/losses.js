// The view of training losses: a line for each row of the target, over its tokens.

/** Rounds one after the other; the line breaks between two, where weights were pruned. */
function lossCurve(i) {
  const { stages = {}, losses = {} } = page.data.details;
  const x = [];
  const y = [];
  let before = 0;
  for (const stage of stages[valueOf("stage_id", i)]?.[1] ?? []) {
    const { tokens, resumed, values } = losses[stage];
    if (x.length) {
      x.push(before);
      y.push(null);
    }
    values.forEach((value, at) => {
      x.push(Math.round(before + tokens * (resumed + ((1 - resumed) * (at + 1)) / values.length)));
      y.push(value);
    });
    before += tokens;
  }
  return { x, y };
}

/** The curve of each row of the target that was trained, with its name. */
function lossCurves(lines, among) {
  const entries = pointsAt(lines, target());
  return entries.flatMap(({ line, point }) => point.rows.map((i) => ({ line, point, i, ...lossCurve(i) })))
    .filter(({ x }) => x.length)
    .map((curve) => {
      const seed = valueOf("seed", curve.i);
      return { ...curve, name: nameOf(curve.line, among) + (seed === null ? "" : `, seed ${seed}`) };
    });
}

function lossTraces(lines, among) {
  return lossCurves(lines, among).map(({ line, point, name, x, y }) => {
    const look = lookOf(line);
    return {
      type: "scatter", mode: "lines", x, y, name: markup(name), opacity: isPicked(line) ? 1 : 0.15,
      line: { color: look.color, width: 1.5, dash: look.dash },
      // Plotly reads %{...} in a template; the name is a text beside it.
      text: x.map(() => markup(name)), hovertemplate: "%{text}<br>%{x:,} tokens, loss %{y:.3f}<extra></extra>",
      customdata: x.map(() => [line.id, point.target]),
      meta: { kind: "loss", line: line.id, method: line.at.method, regime: line.at.regime },
    };
  });
}

function lossTable(lines, among) {
  const numbers = ({ name, x, y }) => x.map((tokens, i) => [name, shown(tokens), shown(y[i])]);
  const body = lossCurves(lines, among).flatMap(numbers);
  return { head: ["line", "training tokens", "loss (nats a token)"], body, first: 200 };
}
