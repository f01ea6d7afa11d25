// Downloads: the figure as SVG or PNG, dark on white with a title, and numbers as CSV.

const SAVED = { width: 1100, height: 620 };

/** Name of a file: what the figure shows, with plain characters. */
const fileName = () => figureTitle().replace(/[^A-Za-z0-9.]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 90) || "figure";

function saveFigure(format) {
  const figure = drawing(true, SAVED);
  return Plotly.downloadImage(
    { data: figure.data, layout: { ...figure.layout, ...SAVED } },
    { format, filename: fileName(), ...SAVED, scale: format === "png" ? 2 : 1 },
  );
}

/** A value of a CSV file; a text that a spreadsheet would run as a formula gets a quote in front. */
function quoted(value) {
  const text = Array.isArray(value) ? value.join(" ") : String(value ?? "");
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) && !finite(Number(text)) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}

function saveText(lines, name) {
  const text = lines.map((line) => line.map(quoted).join(",")).join("\r\n");
  const href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = element("a", undefined, { download: name, href });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** The rows that pass the filters, with all columns that the page holds. */
function saveRows() {
  const members = filtered().flat();
  saveText([rows.names, ...members.map((i) => rows.names.map((name) => valueOf(name, i)))], "results.csv");
}

/** The numbers of the figure: of layers and losses too. */
function saveNumbers() {
  const { head, body } = VIEWS[state.view].table(shownLines(), shownLines(true));
  saveText([head, ...body], `${fileName()}.csv`);
}
