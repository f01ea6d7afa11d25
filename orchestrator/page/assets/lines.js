// Lines of the figure that the choosers let be seen: which boards, which lines, which points.

const page = { data: null, lines: new Map(), drawn: false, listens: false, pair: "" };

const dimension = (name) => page.data.dimensions.find((each) => each.name === name);
/** Dimensions of which the figure shows all values at once. */
const spreads = () => [state.facet, state.color].filter(Boolean);
const SINGLE = ["sweep", "model", "text"];

/** The board that the choosers name, or the one nearest to that. */
function chosenBoard() {
  const { boards } = page.data;
  const fit = (board) => SINGLE.reduce((sum, name, i) => sum + (board[name] === state[name] ? 2 ** (2 - i) : 0), 0);
  return boards.reduce((best, board) => (best && fit(best) >= fit(board) ? best : board), null);
}

/** All boards in the figure: the chosen one, and those that facets or colours add. */
function shownBoards() {
  const chosen = chosenBoard();
  return page.data.boards.filter((board) => SINGLE.every(
    (name) => spreads().includes(name) || board[name] === chosen[name],
  ));
}

const isHidden = (name, value) => state.hide.includes(`${name}=${value}`);

/** Lines that are drawn: of the shown boards, without what the chips hide. */
function shownLines(all = false) {
  const boards = new Set(shownBoards().map((board) => board.id));
  return page.data.lines.filter((line) => {
    if (!boards.has(line.board)) return false;
    if (all) return true;
    if (line.control) return !isHidden("reference", "control");
    return Object.entries(line.at).every(([name, value]) => !isHidden(name, value));
  });
}

/** Looks of a line: colour by the chosen dimension, dash and symbol by another. */
function lookOf(line) {
  if (line.control) return { color: GREY, dash: "dot", symbol: "circle-open" };
  const name = dimension(state.color) ? state.color : "method";
  const find = (each) => dimension(each).values.find(({ value }) => value === line.at[each]) ?? {};
  const second = find(styleBy());
  return { color: find(name).color, dash: second.dash, symbol: second.symbol };
}
const GREY = "#6b6b6b";
/** The dimension that dashes and symbols stand for. */
const styleBy = () => (state.color === "regime" ? "method" : "regime");

/** The name of a line among the lines that are drawn: only what they do not share. */
function nameOf(line, among) {
  if (line.control) return spreads().includes("model") ? `dense · ${line.at.model}` : "dense, trained alike";
  const names = page.data.dimensions.map(({ name }) => name).filter((name) => name !== state.facet);
  const pruned = among.filter((each) => !each.control);
  const parts = names.filter((name) => new Set(pruned.map((each) => each.at[name])).size > 1);
  const told_parts = parts.map((name) => line.at[name]).filter(Boolean);
  return told_parts.join(" · ") || line.name;
}

/** The target that answers and views are about: the chosen one, or the board's own start. */
function target() {
  const board = chosenBoard();
  if (!board) return "";
  if (board.targets.includes(state.at)) return state.at;
  return document.querySelector(`[data-board="${board.id}"]`)?.getAttribute("data-start") ?? "";
}

/** Value of a point on the vertical axis. */
const heightOf = (point) => (state.y === "ratio" ? point.ratio : point.y);
const isPicked = (line) => !state.pick.length || state.pick.includes(line.id);
/** The points of a target, each with its line. */
const pointsAt = (lines, at) => lines.flatMap(
  (line) => line.points.filter((point) => point.target === at).map((point) => ({ line, point })),
);
/** A point in words: `28.1 ± 0.3 (3)`, or why it has no number. */
function pointText(point) {
  if (!finite(point.y)) return point.status === "non-finite" ? "not finite" : point.status.replace("_", " ");
  const count = point.whole ? (point.n > 1 ? ` (${point.n})` : "") : ` ! (${point.n} of ${point.of})`;
  return told(point.y, point.std) + count;
}

/** Puts markup characters of a text out of action, for Plotly takes some as markup. */
const markup = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
