"""A cell's weights, from the store into a Hugging Face directory with a card.

The store is only read. A stage whose files were dropped, or are damaged, is refused, and the
message says what to do.
"""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.checks import BadInputError
from core.models.mask_files import MASKS_FILE, load_masks
from core.models.sources import EMBEDDED
from core.paths import look_up, require_writable
from orchestrator.page.watched import Watched
from orchestrator.publish import sparse_files
from orchestrator.publish.model_card import LICENCE_FILES, licence_of, model_card
from orchestrator.publish.recompute_command import recompute_command
from orchestrator.results.names import CellName
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.schema import Row
from orchestrator.store.manifests import MANIFEST

ROWS_FILE = "rows.json"
"""Holds the cell's rows with all columns, beside the model."""
LOADING = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
ids = tokenizer("The", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=40)[0]))
"""


def find_cell(sweeps: Sequence[Watched], prefix: str) -> tuple[Watched, list[Row]]:
    """Return the cell whose id begins with `prefix`: its sweep and its rows.

    Raises:
        BadInputError: there is no such cell, or there are several.
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
    """Write the model of a cell. The directory appears whole or not at all.

    Args:
        sweep: the sweep that has the cell.
        rows: the cell's rows.
        destination: a directory that does not exist yet, or an empty one.
        form: `huggingface` or `compressed-tensors`.

    Returns:
        Lines for the user: where the model is, how sparse it is, and sizes.

    Raises:
        BadInputError: the model cannot be written; the message says what to do.
    """
    row = rows[0]
    require_new(destination)
    if form == "compressed-tensors":
        sparse_files.require_installed()
    manifest = stored_weights(sweep, row)
    source = (sweep.record or {}).get("sources", {}).get(row["model"])
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".model-") as aside:
        directory = Path(aside) / "model"
        with sweep.store.stages.at(row["stage_id"]).opened() as stage:
            copy_files(stage, directory)
        told = [f"{CellName.of_row(row).full}: {len(manifest['files'])} files in {destination}"]
        loading = LOADING
        if form == "compressed-tensors":
            told.append(compress_(directory, row))
            loading = sparse_files.LOADING
        licence = add_licence(directory, source)
        card = model_card(rows, source, licence, loading)
        (directory / "README.md").write_text(card, encoding="utf-8")
        (directory / ROWS_FILE).write_text(json.dumps(list(rows), indent=1), encoding="utf-8")
        give_usual_modes_(directory)
        if destination.exists():
            destination.rmdir()
        directory.rename(destination)
    values = [f"{format_perplexity(r['perplexity'])} on {r['eval_text']}" for r in rows]
    told.append(f"sparsity {row['measured_sparsity']:.6g}, perplexity {', '.join(values)}")
    return told


def require_new(destination: Path) -> None:
    """Refuse a place for a model that holds something, or that cannot be written."""
    require_writable("get", str(destination), str(destination.parent))
    look_up("get", str(destination), str(destination))
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise BadInputError(f"--get {destination}: exists already; name a new directory")


def copy_files(stage: Path, directory: Path) -> None:
    """Copy a stage without its manifest; the copy may be written, also that of read-only files."""
    ignored = shutil.ignore_patterns(MANIFEST)
    shutil.copytree(stage, directory, ignore=ignored, copy_function=shutil.copyfile)
    for folder in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        folder.chmod(folder.stat().st_mode | stat.S_IRWXU)


def give_usual_modes_(directory: Path) -> None:
    """Give all files the mode of a new file; some libraries write files for their owner alone."""
    usual = stat.S_IMODE((directory / "README.md").stat().st_mode)
    for path in directory.rglob("*"):
        if path.is_file():
            path.chmod(usual)


def stored_weights(sweep: Watched, row: Row) -> dict[str, Any]:
    """Return the manifest of a cell's last stage, after a check of its files by their hashes."""
    cell, stage = row["cell_id"][:12], row["stage_id"]
    if row["status"] != "done":
        why = row.get("error") or "a cell before it failed"
        raise BadInputError(f"--get {cell}: {row['status'].replace('_', ' ')}, no model ({why})")
    if row["stage_dir"] is None:
        raise BadInputError(f"--get {cell}: this is the dense model itself, {row['model']}")
    manifest = sweep.store.stages.at(stage).manifest()
    if manifest is None:
        raise BadInputError(f"--get {cell}: its stage {stage} is not in {sweep.name}")
    why = "weights were not kept" if manifest.get("dropped") else None
    if why is None and (damage := sweep.store.stages.at(stage).damage(manifest, deep=True)):
        why = f"files are damaged ({damage})"
    if why is not None:
        again = recompute_command(sweep.record, row)
        raise BadInputError(f"--get {cell}: its {why}; compute them again: {again}")
    return manifest


def compress_(directory: Path, row: Row) -> str:
    """Take the zeros out of the weights; return by how much the file shrinks."""
    masks = load_masks(directory / MASKS_FILE)
    sparse_files.require_rows_of_outputs(directory, masks)
    form = sparse_files.sparse_form(row["mask_structure"], row["measured_sparsity"])
    before, after = sparse_files.compress_(directory, masks, form)
    share = after / before
    return f"{form['format']}: {before:,} bytes before, {after:,} after ({share:.1%})"


def add_licence(directory: Path, source: Mapping[str, Any] | None) -> str | None:
    """Copy the base model's licence beside the model; return its identifier if it is known."""
    if source is None:
        return None
    if source["name"] == EMBEDDED:
        return "apache-2.0"
    if source["revision"] is not None:
        return licence_of(None, source["path_or_repo"], source["revision"])
    base = Path(source["path_or_repo"])
    for name in LICENCE_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, directory / name)
    return licence_of(base, None, None)
