// The views of the figure, an object each. Tabs, plot, caption, numbers and downloads read them from here.
//
// label       name on the tab
// x           title of the horizontal axis; `log` if it starts as logarithmic
// y           title of the vertical axis; null for that of perplexity, which follows the reader's choice
// wide        true if names stand at points, which take room to the right
// traces      function of (lines, all shown lines, places of targets): what is drawn, as Plotly takes it
// lane        function of the same that returns marks of cells without a value, drawn above the plot; or absent
// fields      names of what it can show, of which the reader chooses one
// staged      true if it shows what stages recorded, which a page of many rows does not hold
// references  true if the dense model and published values are drawn
// ends        true if lines have their names at their right ends
// facets      true if the figure may be split
// caption     function of (lines, all shown lines): what a reader must know
// table       function of (lines, all shown lines): the numbers, as `head` and `body`
// nothing     words in place of a plot that has no traces

/** The field that the reader chose, of those that the view offers. */
function field() {
  const { fields } = VIEWS[state.view];
  return fields.includes(state.field) ? state.field : fields[0];
}

/** What Python says of bytes or seconds on the shown boards. */
const gained = (measure) => [...new Set(shownBoards().map(({ gains }) => gains[measure]))].join(" ");

const NO_VALUES = "No perplexity yet for this choice";
const PERPLEXITY = { y: null, facets: true, table: pointTable, nothing: NO_VALUES };

const VIEWS = {
  sparsity: {
    ...PERPLEXITY, label: "Sparsity", x: "sparsity", traces: sparsityTraces, lane: laneTraces, references: true,
    ends: true,
    caption: () => "Band or bar: standard deviation over seeds. Hollow: seeds lacking, or (large) published by others. "
      + "Lane on top, cells without a value: × failed, ▲ not finite, ■ stopped, – not run.",
  },
  size: {
    ...PERPLEXITY, label: "Weights", x: "prunable weights that remain", log: true, traces: sizeTraces("params"),
    caption: () => "Models of different size share this axis. "
      + "Grey steps: no whole cell has fewer weights and a lower value.",
  },
  bytes: {
    ...PERPLEXITY, label: "Bytes", x: "bytes of the model: values that are left, one bit a weight, the rest dense",
    log: true, traces: sizeTraces("bytes"),
    caption: () => `${gained("bytes") || "Prunable matrices only: these rows are of an earlier version."} `
      + "Grey steps: no whole cell has fewer bytes and a lower value.",
  },
  speed: {
    ...PERPLEXITY, label: "Speed", x: "measured seconds", traces: speedTraces, fields: ["decode", "prefill"],
    caption: speedCaption, nothing: "No speed was measured: run the sweep with --eval.speed",
  },
  tokens: {
    ...PERPLEXITY, label: "Tokens", x: "training tokens", traces: costTraces("tokens"),
    caption: () => `At ${target()}. Training tokens count over the cell's whole history. Grey steps: the front.`,
  },
  seconds: {
    ...PERPLEXITY, label: "Time", x: "seconds to prune and train", log: true, wide: true,
    traces: costTraces("seconds"),
    caption: () => `At ${target()}. Seconds over the cell's whole history, without evaluation. Grey steps: the front.`,
  },
  layers: {
    label: "Layers", staged: true, fields: ["errors", "sparsity"], x: "block", y: "matrix",
    traces: layerTraces, caption: layerCaption, table: layerTable,
    nothing: "No values of layers are recorded here: methods without calibration look at no inputs",
  },
  losses: {
    label: "Losses", staged: true, x: "training tokens", y: "training loss (nats a token)", facets: true,
    traces: lossTraces,
    caption: () => `At ${target()}. At most 200 means a round. Each seed has a line; it breaks where weights were `
      + "pruned between rounds.",
    table: lossTable, nothing: "Nothing was trained here",
  },
};

/** Lines of words in place of a plot that has no traces. */
function nothingIn(view) {
  const { later, commands } = page.data;
  if (!later || !view.staged || live.address) return [view.nothing];
  const look = Object.values(commands)[0]?.look ?? "python -m orchestrator.browse OUT_DIR";
  const why = `A page of ${later.toLocaleString("en")} rows and more holds no layers and losses.`;
  return [why, "The live page has them:", look];
}

/** The numbers of the figure as a table below it. */
function drawNumbers() {
  const { head, body, first } = VIEWS[state.view].table(shownLines(), shownLines(true));
  const most = first ?? 1000;
  const rest = body.length - most;
  const more = rest > 0 ? [[`and ${rest.toLocaleString("en")} more, all in the CSV`]] : [];
  fillTable(byId("numbers-table"), head, [...body.slice(0, most), ...more], nothingIn(VIEWS[state.view]).join(" "));
}
