"""The report that closes a sweep: Parquet file, page, table and failures."""

from __future__ import annotations

import logging
import shlex
import textwrap
from typing import Any

from orchestrator.page.contents import COMMAND, OUT_DIR
from orchestrator.page.document import write_html
from orchestrator.page.notes import read_notes
from orchestrator.planning import Found, missing_cells
from orchestrator.preparation import Sweep
from orchestrator.results.collection import is_made_of, stamp_of, write_results
from orchestrator.results.found import found_text
from orchestrator.results.gathering import copy_shared_rows, gather, task_columns
from orchestrator.results.names import CellName
from orchestrator.results.published import known_values
from orchestrator.results.record import grid_columns, labels_of, read_record
from orchestrator.results.rows import last_outcome
from orchestrator.results.summary import answers, summary_table

logger = logging.getLogger(__name__)


def collect(sweep: Sweep) -> int:
    """Rebuild results.parquet and curves.html from all rows; print the table.

    Returns:
        1 while a cell of the grid has failed or is missing, else 0.
    """
    store = sweep.store
    record = read_record(store, sweep.id)
    copy_shared_rows(store.rows, labels_of(record))
    stamp = stamp_of(store, record)
    now = Found(store.stages.manifests(), {}, store.rows.read())
    rows = gather(now.rows, labels_of(record), task_columns(now.manifests), grid_columns(record))
    if not is_made_of(store, stamp):
        write_results(store, rows, stamp)
    mine = [row for row in rows if row["in_current_grid"]]
    provenance = {COMMAND: record["command"], OUT_DIR: sweep.config.output.out_dir}
    write_html(
        rows,
        store.files.join("curves.html"),
        # A stage that another sweep set aside meanwhile is shown as it was.
        manifest={**sweep.found.manifests, **now.manifests}.get,
        published=known_values(sweep.config.output.published),
        provenance=provenance,
        notes=read_notes(store),
        filesystem=store.files.filesystem,
    )
    print()
    print(summary_table(mine))
    bad = [row for row in mine if row["status"] in ("failed", "not_run")]
    missing = len(sweep.plan.row_keys()) - len(mine)
    print(failures(bad), end="")
    stopped = sum(row["status"] == "stopped" for row in mine)
    if stopped:
        print(f"{stopped} rows given up on by --stop-perplexity")
    if bad or missing:
        print(f"{len(bad) + missing} rows failed or missing; run the same command again")
        print("(--retry-failed also runs cells again that failed by themselves)")
    lacking = without_models(sweep, now)
    if lacking:
        print(f"{len(lacking)} rows are done, but not the models that belong to them; run the")
        print("same command again")
        print(failures([{**row, **last_outcome(row)} for row in lacking]), end="")
    store.save_indexes()
    if found := found_text(mine):
        print(found)
    print(answers(mine))
    print(f"rows    {store.files.display('results.parquet')}")
    print(f"curves  {store.files.display('curves.html')}")
    print(f"look    python -m orchestrator.browse {shlex.quote(sweep.config.output.out_dir)}")
    return 1 if bad or missing or lacking else 0


def without_models(sweep: Sweep, now: Found) -> list[dict[str, Any]]:
    """Return the rows of done cells whose weights were to be computed again and are not there."""
    found = []
    for cell in missing_cells(sweep.config, sweep.plan, now)[0]:
        rows = [now.rows.get(key, {}) for key in cell.row_keys()]
        if all(row.get("status") == "done" for row in rows):
            found += [row for row in rows if last_outcome(row)["status"] != "stopped"]
    return found


def failures(bad: list[dict[str, Any]], most: int = 10) -> str:
    """Return a few lines for each cell that failed, at most `most` cells."""
    failed = [row for row in bad if row["status"] == "failed"]
    lines = []
    for row in failed[:most]:
        text = f"failed: {CellName.of_row(row).short}: {row['error']}"
        lines += textwrap.wrap(text, 79, subsequent_indent="    ", max_lines=3)
    if len(failed) > most:
        lines.append(f"and {len(failed) - most} more; all errors are in curves.html")
    return "".join(f"{line}\n" for line in lines)
