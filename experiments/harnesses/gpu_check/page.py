"""The check's result as one HTML page without scripts or other files."""

from __future__ import annotations

import html
import json
from typing import Any

from gpu_check.parts import PARTS
from gpu_check.table import WORDS

STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.35rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 1.6rem 0 0.4rem; }
.note { border-left: 4px solid #b06000; padding: 0.2rem 0.8rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.6rem 0.25rem 0; }
tr { border-bottom: 1px solid #8885; }
td.seconds { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.failed, .not_run { color: #c0262d; font-weight: 600; }
.skipped { color: #8a6d00; }
pre { white-space: pre-wrap; margin: 0.3rem 0; font-size: 0.85rem; }
"""
REHEARSAL = "A rehearsal: a CPU played the GPU, and shapes were smaller. No figure here is a GPU's."


def page(found: dict[str, Any]) -> str:
    """Return the page of what `gpu.json` holds."""
    rows = found["rows"]
    title = f"GPU check: {card_of(rows) or 'no card'}"
    parts = list(dict.fromkeys(row["part"] for row in rows))
    body = "".join(section(part, [row for row in rows if row["part"] == part]) for part in parts)
    note = f'<p class="note">{REHEARSAL}</p>' if found["rehearsal"] else ""
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(title)}</h1>{note}"
        f"<p>{found['summary']} in {found['seconds']:.0f} s; {found['written_at']}</p>"
        f"{body}</html>\n"
    )


def card_of(rows: list[dict[str, Any]]) -> str | None:
    """Return the name of the card, if the check met one."""
    return next((row["figures"]["card"] for row in rows if "card" in row["figures"]), None)


def section(part: str, rows: list[dict[str, Any]]) -> str:
    """Return the title and the table of one part."""
    title = PARTS[part].title if part in PARTS else part
    lines = "".join(map(line, rows))
    return (
        f"<h2>{html.escape(title)}</h2><table><thead><tr><th>case</th><th>status</th>"
        f"<th>seconds</th><th>found</th></tr></thead><tbody>{lines}</tbody></table>"
    )


def line(row: dict[str, Any]) -> str:
    """Return one row; its figures unfold."""
    status, figures = row["status"], json.dumps(row["figures"], indent=1)
    details = f"<details><summary>figures</summary><pre>{html.escape(figures)}</pre></details>"
    return (
        f"<tr><td>{html.escape(row['case'])}</td>"
        f'<td class="{status}">{WORDS.get(status, status)}</td>'
        f'<td class="seconds">{row["seconds"]:.1f}</td>'
        f"<td>{html.escape(row['text'])}{details if row['figures'] else ''}</td></tr>"
    )
