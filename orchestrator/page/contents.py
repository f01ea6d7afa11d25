"""Everything that the page shows, as plain JSON values; `document.py` puts it into HTML."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.page import packing
from orchestrator.page.answers import board_html
from orchestrator.page.drawn import Shown, described, dimensions_of, lines_of, pairs_of, rounded
from orchestrator.page.gains import device_among, gains_of
from orchestrator.page.packing import packed_rows
from orchestrator.results.board import boards_of
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.details import Manifest, details_of
from orchestrator.results.names import target_of
from orchestrator.results.published import Published, known_values, published_beside
from orchestrator.results.schema import CALIBRATION_COLUMNS, Row, key_of, regime_order, sort_key

SETTINGS = {
    "protocol": ("protocol",),
    "evaluation: text, window, stride, tokens": (
        "eval_text",
        "eval_seq_len",
        "eval_stride",
        "num_eval_tokens",
    ),
    "calibration: text, tokens, window": CALIBRATION_COLUMNS,
    "method settings": ("method", "method_settings"),
    "schedule, budget": ("schedule", "budget"),
    "training": ("finetune_settings", "finetune_lr"),
    "seeds": ("seed",),
    "device, workers, number format": ("device", "num_workers", "dtype"),
    "machine": ("machine",),
    "code: version and commit": ("code_version",),
    "torch": ("torch_version",),
    "transformers": ("transformers_version",),
    "ray": ("ray_version",),
    "sweep": ("sweep_id",),
}
"""Titles of the settings panel, each with the columns of rows behind it."""
COMMAND, OUT_DIR = "command to reproduce", "out-dir"
"""Names in a sweep's provenance that the page makes commands of."""
RETRY = "--retry-failed"


@dataclass(frozen=True)
class SweepShown:
    """One sweep as the page takes it."""

    rows: Sequence[Row]
    name: str = ""
    manifest: Manifest | None = None
    """Gives the stages behind rows, of which layers and losses are read; None leaves them out."""
    published: Sequence[Published] | None = None
    """Values to compare with; those shipped with the project by default."""
    provenance: Mapping[str, object] = field(default_factory=dict)
    """More for the settings panel."""
    notes: str = ""
    """The text of `notes.md` beside the sweep."""


def page_contents(rows: Iterable[Row], **more: Any) -> dict[str, Any]:
    """Return all that the page of one sweep shows; `more` are fields of `SweepShown`."""
    given = {name: value for name, value in more.items() if value is not None}
    return contents_of([SweepShown(list(rows), **given)])


def contents_of(sweeps: Sequence[SweepShown]) -> dict[str, Any]:
    """Return all that the page of some sweeps shows; its `show` takes it as often as there is news.

    Rows may be of a finished sweep or not, and in any order.
    """
    # Rows stand in the order in which they were finished: new ones then follow those a page has.
    ordered = sorted(
        ((sweep.name, row) for sweep in sweeps for row in sweep.rows),
        key=lambda named: (named[1].get("finished_at") or "~", named[0], sort_key(named[1])),
    )
    rows = [row for _, row in ordered]
    device = device_among(rows)
    places = {(name, key_of(row)): i for i, (name, row) in enumerate(ordered)}
    shown: list[Shown] = []
    published: list[dict[str, Any]] = []
    for sweep in sweeps:
        by_key = {key_of(row): row for row in sweep.rows}
        numbers = {key: places[sweep.name, key] for key in by_key}
        boards = boards_of(curves_from_rows(sweep.rows))
        mine = [Shown(sweep.name, board, by_key, numbers, device) for board in boards]
        shown += mine
        published += published_on(mine, sweep.published)
    dimensions = dimensions_of(shown)
    pairs = pairs_of(shown)
    return {
        "head": head_of(rows, sweeps),
        "dimensions": described(dimensions),
        "boards": [
            {
                "id": one.id,
                "sweep": one.sweep,
                "model": one.board.model,
                "text": str(one.board.evaluation),
                "targets": [t.label for t in one.board.targets],
                "dense": rounded(one.board.dense_perplexity),
                "html": board_html(one, i),
                "gains": gains_of(one.board, one.rows, device),
            }
            for i, one in enumerate(shown)
        ],
        "lines": [line for one in shown for line in lines_of(one, dimensions)],
        "pairs": pairs.found,
        "all_pairs": pairs.complete,
        "published": published,
        "rows": packed_rows(rows, [name for name, _ in ordered]),
        **details_among(sweeps),
        "other_devices": sorted(
            {row["speed_device"] for row in rows if row.get("speed_device")} - {device}
        ),
        "settings": [item for sweep in sweeps for item in settings_of(sweep, len(sweeps) > 1)],
        "commands": {sweep.name: commands_of(sweep.provenance) for sweep in sweeps},
    }


def head_of(rows: Sequence[Row], sweeps: Sequence[SweepShown]) -> dict[str, Any]:
    """Return the page's title and what stands below it."""
    mine = [row for row in rows if row["in_current_grid"]]
    pruned = [row for row in mine if row["method"] != "dense"]
    models = sorted({row["model"] for row in mine})
    methods = sorted({row["method"] for row in pruned})
    texts = sorted({row["eval_text"] for row in mine})
    seeds = {row["seed"] for row in pruned if row.get("seed") is not None}
    regimes = sorted({row["regime"] for row in pruned}, key=regime_order)
    targets = {target_of(row) for row in pruned if not row.get("searched")}
    finished = sorted(row["finished_at"][:10] for row in mine if row.get("finished_at"))
    commits = sorted({row["code_version"] for row in mine if row.get("code_version")})
    facts = [listed(methods, "methods"), listed(regimes, "regimes")]
    facts += [counted(len(targets), "target"), counted(len(seeds), "seed")]
    facts += [" to ".join(dict.fromkeys((finished[0], finished[-1])))] if finished else []
    facts += [f"code {listed(commits, 'versions')}"] if commits else []
    title = (
        f"Pruning {listed(models, 'models')} on {listed(texts, 'texts')}" if mine else "No rows yet"
    )
    failed = {(row["model"], row["cell_id"]) for row in mine if row["status"] == "failed"}
    return {
        "title": title,
        "facts": " · ".join(filter(None, facts)),
        "failed": len(failed),
        "notes": "\n\n".join(sweep.notes for sweep in sweeps if sweep.notes),
    }


def listed(names: Sequence[str], what: str, most: int = 4) -> str:
    """Return names one after another, or how many there are if there are many."""
    return ", ".join(names) if len(names) <= most else f"{len(names)} {what}"


def counted(count: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{count} {what}{'s' * (count != 1)}"


def published_on(shown: Sequence[Shown], given: Sequence[Published] | None) -> list[dict[str, Any]]:
    """Return the values of papers beside each board, of the methods that were run there."""
    known = known_values(None) if given is None else list(given)
    found = []
    for one in shown:
        dense = one.board.dense_perplexity
        found += [
            {
                "board": one.id,
                "method": value.method,
                "target": value.target.label,
                "y": value.perplexity,
                "ratio": rounded(value.perplexity / dense) if dense else None,
                "told": value.story(),
            }
            for value in published_beside(one.board, known)
        ]
    return found


def details_among(sweeps: Sequence[SweepShown]) -> dict[str, Any]:
    """Return layers and losses; `later` is the number of rows from which there are none."""
    if sum(len(sweep.rows) for sweep in sweeps) >= packing.MANY_ROWS:
        return {"later": packing.MANY_ROWS, "details": {}}
    parts = [details_of(sweep.rows, sweep.manifest) for sweep in sweeps if sweep.manifest]
    return {"later": 0, "details": joined(parts)}


def joined(details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the details of several sweeps as those of one."""
    found: dict[str, Any] = {"stages": {}, "names": [], "layers": {}, "losses": {}}
    for each in filter(None, details):
        shift = len(found["names"])
        found["names"] += each["names"]
        found["stages"] |= each["stages"]
        found["losses"] |= each["losses"]
        for stage, layers in each["layers"].items():
            found["layers"][stage] = {**layers, "names": layers["names"] + shift}
    return found


def commands_of(provenance: Mapping[str, object]) -> dict[str, str]:
    """Return the commands that the page offers for a cell; `{cell}` stands for its id."""
    command = str(provenance.get(COMMAND) or "python experiments/sweep_opt.py")
    out_dir = str(provenance.get(OUT_DIR) or "OUT_DIR")
    script = re.split(r" -", command, maxsplit=1)[0]
    place = shlex.quote(out_dir)
    return {
        "retry": command if RETRY in command.split() else f"{command} {RETRY}",
        "look": f"python -m orchestrator.browse {place}",
        "get": f"python -m orchestrator.browse {place} --get {{cell}} DEST",
        "repeat": f"{script} --from-row {{cell}} --out-dir {place}",
    }


def settings_of(sweep: SweepShown, named: bool) -> list[tuple[str, list[str]]]:
    """Return the settings panel of a sweep: each setting with all values it takes."""
    rows = sweep.rows
    items = [(name, [str(value)]) for name, value in sweep.provenance.items()]
    finished = sorted(row["finished_at"][:16] for row in rows if row.get("finished_at"))
    span = " to ".join(dict.fromkeys((finished[0], finished[-1]))) if finished else ""
    items.append(("computed", [f"{span} UTC"] if span else []))
    for title, columns in SETTINGS.items():
        values = {tuple(row.get(column) for column in columns) for row in rows}
        told = {" · ".join(str(v) for v in value if v is not None) for value in values}
        items.append((title, sorted(told - {""})))
    return [(f"{sweep.name}: {title}" if named else title, told) for title, told in items]
