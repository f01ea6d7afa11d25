"""Any point is a model: a cell's weights out of the store, as a Hugging Face directory with a card.

Reads the store only. A stage whose files were dropped, or are damaged, is refused with what to do.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.checks import BadInputError
from core.models.masks import MASKS_FILE, load_masks
from core.models.sources import EMBEDDED
from orchestrator.page.watched import Watched
from orchestrator.publish import sparse_files
from orchestrator.publish.model_card import LICENCE_FILES, licence_of, model_card
from orchestrator.results.names import CellName
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.schema import Row
from orchestrator.store.manifests import MANIFEST

ROWS_FILE = "rows.json"
"""The cell's rows, whole, beside the model."""
LOADING = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
ids = tokenizer("The", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=40)[0]))
"""


def find_cell(sweeps: Sequence[Watched], prefix: str) -> tuple[Watched, list[Row]]:
    """The cell whose id begins with `prefix`, and its rows.

    Raises:
        ValueError: there is none, or several.
    """
    found: dict[str, tuple[Watched, list[Row]]] = {}
    for sweep in sweeps:
        for row in sweep.rows():
            if row["cell_id"].startswith(prefix):
                found.setdefault(row["cell_id"], (sweep, []))[1].append(row)
    if not found:
        raise BadInputError(f"--get {prefix}: no such cell; ids are in the page's table (cell id)")
    if len(found) > 1:
        names = [
            f"{cell[:12]} ({CellName.of_row(rows[0]).full})" for cell, (_, rows) in found.items()
        ]
        told = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        raise BadInputError(f"--get {prefix}: {len(found)} cells begin so: {told}")
    return next(iter(found.values()))


def write_model(sweep: Watched, rows: Sequence[Row], destination: Path, form: str) -> list[str]:
    """Writes the model of a cell; the directory appears whole or not at all.

    Args:
        sweep: where the cell is.
        rows: its rows.
        destination: a directory that does not exist yet, or an empty one.
        form: `huggingface` or `compressed-tensors`.

    Returns:
        What to tell: where it is, how sparse, and sizes.

    Raises:
        ValueError: one line with what to do.
    """
    row = rows[0]
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise BadInputError(f"--get {destination}: exists already; name a new directory")
    if form == "compressed-tensors":
        sparse_files.require_installed()
    manifest = stored_weights(sweep, row)
    source = (sweep.record or {}).get("sources", {}).get(row["model"])
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".model-") as aside:
        directory = Path(aside) / "model"
        with sweep.store.opened("stages", row["stage_id"]) as stage:
            shutil.copytree(stage, directory, ignore=shutil.ignore_patterns(MANIFEST))
        told = [f"{CellName.of_row(row).full}: {len(manifest['files'])} files in {destination}"]
        loading = LOADING
        if form == "compressed-tensors":
            told.append(compress_(directory, row))
            loading = sparse_files.LOADING
        licence = add_licence(directory, source)
        card = model_card(rows, source, licence, loading)
        (directory / "README.md").write_text(card, encoding="utf-8")
        (directory / ROWS_FILE).write_text(json.dumps(list(rows), indent=1), encoding="utf-8")
        if destination.exists():
            destination.rmdir()
        directory.rename(destination)
    values = [f"{format_perplexity(r['perplexity'])} on {r['eval_text']}" for r in rows]
    told.append(f"sparsity {row['measured_sparsity']:.6g}, perplexity {', '.join(values)}")
    return told


def stored_weights(sweep: Watched, row: Row) -> dict[str, Any]:
    """The manifest of a cell's last stage, its files checked against their hashes."""
    cell, stage = row["cell_id"][:12], row["stage_id"]
    if row["status"] != "done":
        why = row.get("error") or "a cell before it failed"
        raise BadInputError(f"--get {cell}: {row['status'].replace('_', ' ')}, no model ({why})")
    if row["stage_dir"] is None:
        raise BadInputError(f"--get {cell}: is the dense model itself, {row['model']}")
    manifest = sweep.store.manifest("stages", stage)
    if manifest is None:
        raise BadInputError(f"--get {cell}: its stage {stage} is not in {sweep.name}")
    if manifest.get("dropped"):
        again = recomputing(sweep.record, row)
        raise BadInputError(f"--get {cell}: weights were not kept; computed again by: {again}")
    damage = sweep.store.damage("stages", stage, manifest, deep=True)
    if damage is not None:
        again = recomputing(sweep.record, row)
        raise BadInputError(f"--get {cell}: damaged ({damage}); computed again by: {again}")
    return manifest


def recomputing(record: Mapping[str, Any] | None, row: Row) -> str:
    """The command that computes a cell's weights again and keeps them: the sweep's, narrowed."""
    known = {"models": [row["model"]], **narrowed(row), "keep": ["final"]}
    words = shlex.split((record or {}).get("command", "python experiments/sweep_opt.py"))
    kept: list[str] = []
    keeping = True
    for word in words:
        if word.startswith("--"):
            flag = word[2:].partition("=")[0].replace("_", "-")
            keeping = flag not in known and is_read(flag, row)
        if keeping:
            kept.append(word)
    for flag, values in known.items():
        kept += [f"--{flag}", *values]
    return shlex.join(kept)


def narrowed(row: Row) -> dict[str, list[str]]:
    """Flags of the smallest grid with this cell; the fine-tuned dense model goes with any."""
    if row["method"] == "dense":
        return {}
    structure = row["mask_structure"]
    on_grid = row["regime"] == "iterative" and row.get("schedule") == "grid"
    sparsities = row["path"] if on_grid else [row["sparsity"]]
    found = {
        "methods": [row["method"]],
        "regimes": [row["regime"]],
        "sparsities": [] if structure else [f"{s:g}" for s in sparsities],
        "mask-structures": [structure] if structure else [],
    }
    return found | ({} if row.get("seed") is None else {"seeds": [str(row["seed"])]})


def is_read(flag: str, row: Row) -> bool:
    """Whether a flag has an effect on the way to one cell: others are refused by a sweep."""
    if row["method"] == "dense":
        return True
    section, _, name = flag.partition(".")
    if section == "finetune":
        return row["regime"] != "oneshot"
    if section == "calibration":
        return row.get("calibration_text") is not None
    if section == "prune":
        return name.replace("-", "_") in json.loads(row.get("method_settings") or "{}")
    if flag in ("schedule", "num-rounds"):
        return row["regime"] == "iterative"
    return flag not in ("dry-run", "retry-failed", "trackers")


def compress_(directory: Path, row: Row) -> str:
    """Takes the zeros out of the weights; says by how much the file shrinks."""
    masks = load_masks(directory / MASKS_FILE)
    form = sparse_files.sparse_form(row["mask_structure"], row["measured_sparsity"])
    before, after = sparse_files.compress_(directory, masks, form)
    share = after / before
    return f"{form['format']}: {before:,} bytes before, {after:,} after ({share:.1%})"


def add_licence(directory: Path, source: Mapping[str, Any] | None) -> str | None:
    """Copies the base's licence beside the model; returns its identifier if known."""
    if source is None:
        return None
    if source["name"] == EMBEDDED:
        return "apache-2.0"
    if source["revision"] is not None:
        return licence_of(None, source["path_or_repo"], source["revision"])
    base = Path(source["path_or_repo"])
    for name in LICENCE_FILES:
        if (base / name).is_file():
            shutil.copy(base / name, directory / name)
    return licence_of(base, None, None)
