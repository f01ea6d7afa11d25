// Axes: ranges, ticks with a label each, and the positions of panels.

const CAP = 3; // The focused figure shows ratios to dense up to here.
const TICKS = [
  [1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 8],
  [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7], [1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1],
];

/** Ticks of a logarithmic axis between two values: at most twelve, each with a label. */
function logTicks(low, high, suffix = "") {
  for (const steps of TICKS) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1) {
      for (const step of steps) {
        const value = Number((step * 10 ** power).toPrecision(3));
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    }
    if (found.length <= 12) return { tickvals: found, ticktext: found.map((value) => shortNumber(value) + suffix) };
  }
  return {};
}

function shortNumber(value) {
  const units = [[1e9, "G"], [1e6, "M"], [1e4, "k"]];
  for (const [size, name] of units) {
    if (value >= size) return `${Number((value / (name === "k" ? 1e3 : Number(size))).toPrecision(3))}${name}`;
  }
  return String(Number(value.toPrecision(3)));
}

/** Lowest and highest height of traces on the main axis, in the figure's own unit. */
function extent(traces) {
  const values = traces.flatMap((trace) => trace.y).filter((v) => finite(v) && v > 0);
  return values.length ? [Math.min(...values), Math.max(...values)] : null;
}

/** The vertical range of perplexities: close to dense, or everything; a zoom of the reader's comes first. */
function heights(traces, boards) {
  const seen = extent(traces);
  if (!seen) return null;
  const dense = boards.map((board) => board.dense).filter(finite);
  const base = state.y === "ratio" ? [1, 1] : [Math.min(...dense), Math.max(...dense)];
  if (state.range === "full" || !dense.length) return [seen[0] / 1.05, seen[1] * 1.08];
  const low = Math.min(base[0], seen[0]);
  return [low / 1.03, Math.max(Math.min(seen[1] * 1.05, base[1] * CAP * 1.04), low * 1.1)];
}

/** The reader's zoom as four numbers, null where there is none for this view. */
function zoomed() {
  const [view, ...numbers] = state.zoom.split("~");
  return view === [state.view, state.y].join(".") && numbers.length === 4 ? numbers.map(Number) : null;
}

/** Columns, rows and the domains of `count` panels. */
function panelGrid(count) {
  const most = narrow() ? 1 : count <= 4 ? count : count <= 6 ? 3 : 4;
  const columns = Math.min(count, most);
  const lines = Math.ceil(count / columns);
  const [wide, high] = [0.035, lines > 1 ? 0.3 / lines : 0];
  return Array.from({ length: count }, (_, i) => {
    const [column, line] = [i % columns, Math.floor(i / columns)];
    const width = (1 - wide * (columns - 1)) / columns;
    const height = (1 - high * (lines - 1)) / lines;
    const left = column * (width + wide);
    const top = 1 - line * (height + high);
    const domains = { x: [left, Math.min(1, left + width)], y: [Math.max(0, top - height), top] };
    return { ...domains, first: column === 0, last: i + columns >= count };
  });
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Colours and fonts of the figure; a saved one is always dark on white. */
function inkOf(saved) {
  const ink = saved
    ? { ink: "#1d2328", grid: "#e4e8ea", edge: "#cfd5d9", raised: "#f3f5f6", quiet: "#565f67", paper: "#ffffff" }
    : Object.fromEntries(["ink", "grid", "edge", "raised", "quiet", "paper"].map((name) => [name, color(`--${name}`)]));
  return { ...ink, font: { color: ink.ink, family: "system-ui, sans-serif", size: narrow() && !saved ? 11 : 13 } };
}
