// The views of the figure, an object each. The chooser, the plot and the caption read them from here.
//
// title       name in the chooser
// x, y        axes: a title; x may have a type, y the scale that it starts with
// traces      function of the page: what is drawn, as Plotly takes it
// caption     function of the page: what a reader must know
// nothing     shown in place of a plot that has no traces
// references  true if the dense control or published values are drawn
// legend      "always", "never", or "wide": on wide screens only, where colours are explained twice
// panels      true if traces are spread over panels, which they name in `meta.panel`

const PERPLEXITY = { title: "perplexity" };
const NO_PERPLEXITY = "No perplexity yet for this choice";

const VIEWS = {
  sparsity: {
    title: "perplexity against sparsity",
    x: { title: "sparsity" },
    y: PERPLEXITY,
    traces: sparsityTraces,
    caption: marksExplained,
    nothing: NO_PERPLEXITY,
    references: true,
    legend: "wide",
  },
  tokens: {
    title: "perplexity against training tokens",
    x: { title: "training tokens" },
    y: PERPLEXITY,
    traces: (page) => [...costTraces(page, TOKENS), ...controlTraces(page)],
    caption: () => "Training tokens count over the cell's whole history.",
    nothing: NO_PERPLEXITY,
    references: true,
    legend: "wide",
  },
  seconds: {
    title: "perplexity against seconds of work",
    x: { title: "seconds to prune and train", type: "log" },
    y: PERPLEXITY,
    traces: (page) => costTraces(page, SECONDS),
    caption: () => "Seconds of pruning and training over the cell's whole history, without evaluation.",
    nothing: NO_PERPLEXITY,
    legend: "wide",
  },
  front: {
    title: "Pareto front",
    x: { title: "sparsity" },
    y: PERPLEXITY,
    traces: frontTraces,
    caption: () => "No point has both more zeros and a lower perplexity than a point in front.",
    nothing: NO_PERPLEXITY,
    legend: "never",
  },
  errors: {
    title: "error of each layer",
    x: { title: "block" },
    y: { title: "relative output error", scale: "log" },
    traces: (page) => layerTraces(page, "errors"),
    caption: () => "Change of each layer's output relative to its size, tr(D H Dᵀ) / tr(W H Wᵀ), in the cell's last prune stage. W are the weights, D is what pruning took from them, H is the second moment of the inputs. 0 is no change; 1 is as bad as no layer. For an iterative cell this is the last step alone. Mean over seeds. Methods without calibration have no error. Wanda reads only their norms, so compare it with itself alone.",
    nothing: "No errors recorded here: methods without calibration look at no inputs",
    legend: "always",
    panels: true,
  },
  zeros: {
    title: "sparsity of each layer",
    x: { title: "block" },
    y: { title: "measured sparsity" },
    traces: (page) => layerTraces(page, "sparsity"),
    caption: () => "Fraction of each matrix that is masked.",
    nothing: "No sparsities of matrices recorded here",
    legend: "always",
    panels: true,
  },
  losses: {
    title: "training loss",
    x: { title: "training tokens" },
    y: { title: "training loss (nats a token)" },
    traces: lossTraces,
    caption: () => "Logged training loss, as at most 200 means a round. Each seed has a line; it breaks where weights were pruned between rounds.",
    nothing: "Nothing was trained here",
    references: true,
    legend: "always",
  },
};
