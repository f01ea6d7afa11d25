// Rows as the page holds them: columns in which equal values stand once, unpacked when they are read.

const rows = { count: 0, names: [], columns: {}, groups: new Map() };

/** Takes the rows that the server or the file gives as columns. */
function takeRows({ count, names, columns }) {
  Object.assign(rows, { count, names, columns, groups: new Map(), words: null });
  for (let i = 0; i < count; i += 1) {
    const group = valueOf("group", i);
    if (!rows.groups.has(group)) rows.groups.set(group, []);
    rows.groups.get(group).push(i);
  }
  rows.at = new Map(Array.from({ length: count }, (_, i) => [valueOf("key", i), i]));
}

/** The value of a column in a row. */
function valueOf(column, i) {
  const [values, places] = rows.columns[column] ?? [[], []];
  if (!places) return values[i];
  return values[places.length ? places[i] : 0];
}

const targetOf = (i) => valueOf("mask_structure", i) ?? String(Number(valueOf("sparsity", i).toFixed(6)));

/** Mean and sample standard deviation of the finite values of a column over rows. */
function spread(members, column) {
  const values = members.map((i) => valueOf(column, i)).filter(finite);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const squares = values.reduce((a, b) => a + (b - mean) ** 2, 0);
  return { n: values.length, mean, std: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null };
}

/** The state of a cell: done, or the worst that befell one of its seeds. */
function stateOf(members) {
  const states = members.map((i) => {
    const status = valueOf("status", i);
    return status === "done" && !finite(valueOf("perplexity", i)) ? "not finite" : status.replace("_", " ");
  });
  return ["failed", "not finite", "stopped", "not run"].find((each) => states.includes(each)) ?? "done";
}
