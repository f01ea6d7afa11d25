"""The card of a pruned model: how it was made, its sparsity, its perplexities, its licence.

The front matter is the one that the Hugging Face hub reads. The facts come from the model's rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache

from orchestrator.publish.typesetting import markdown_table, markdown_text
from orchestrator.results.names import CellName
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.schema import Row

LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")


def model_card(
    rows: Sequence[Row], source: Mapping[str, Any] | None, licence: str | None, loading: str
) -> str:
    """Return the text of README.md.

    Args:
        rows: the cell's rows, one for each evaluation text.
        source: the base model's source as the sweep recorded it.
        licence: identifier of the base model's licence; None if it is not known.
        loading: Python code that loads and runs the model.
    """
    row = rows[0]
    on_hub = source is not None and source.get("revision") is not None
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        license=licence,
        base_model=source["path_or_repo"] if on_hub and source else None,
        tags=["pruned", "sparse", row["method"]],
    )
    title = f"{row['model']} · {CellName.of_row(row).title}"
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {markdown_text(title)}",
        "A pruned language model, one point of a perplexity-versus-sparsity curve.",
        "## How it was made\n\n" + facts(row, source),
        "## Perplexity\n\n" + perplexities(rows),
        f"## Use\n\n```python\n{loading}```",
        "## Licence\n\n" + licence_text(row, licence),
    ]
    return "\n\n".join(parts) + "\n"


def facts(row: Row, source: Mapping[str, Any] | None) -> str:
    """Return a Markdown list of how the model was made."""
    settings = json.loads(row.get("method_settings") or "{}")
    identity = source["identity"] if source else "not recorded"
    path = " → ".join(f"{s:g}" for s in row.get("path") or ())
    pruned, total = row.get("num_pruned"), row.get("num_prunable")
    text = row.get("calibration_text")
    known = {
        "Base model": f"{row['model']} ({identity})",
        "Method": " ".join([row["method"], *(f"{k}={v}" for k, v in settings.items())]),
        "Regime": row["regime"] + (f", {path}" if row["regime"] == "iterative" and path else ""),
        "Sparsity": f"{row['measured_sparsity']:.6g} of the pruned matrices"
        + (f", {pruned:,} of {total:,} weights" if pruned and total else ""),
        "Mask": (row["mask_structure"] or "unstructured") + ", in masks.safetensors as [out, in]",
        "Calibration": f"{text}, {row['calibration_tokens']:,} tokens" if text else None,
        "Training": f"{row.get('num_finetune_tokens') or 0:,} tokens under the mask",
        "Seed": row.get("seed"),
        "Cell": row["cell_id"],
        "Made with": f"prune-sweep {row['code_version']}, torch {row['torch_version']}, "
        f"transformers {row['transformers_version']}",
    }
    told = [f"- {name}: {markdown_text(str(v))}" for name, v in known.items() if v is not None]
    return "\n".join(told)


def perplexities(rows: Sequence[Row]) -> str:
    """Return a Markdown table with one line for each evaluation text."""
    lines = [["text", "protocol", "window", "dense", "this model"]]
    lines.append(["---", "---", "---:", "---:", "---:"])
    for row in rows:
        dense = row.get("dense_perplexity")
        cells = [
            markdown_text(row["eval_text"]),
            markdown_text(row["protocol"]),
            f"{row['eval_seq_len']:,}",
            "–" if dense is None else format_perplexity(dense),
            format_perplexity(row["perplexity"]),
        ]
        lines.append(cells)
    return markdown_table(lines)


def licence_text(row: Row, licence: str | None) -> str:
    """Return a sentence on the licence."""
    base = markdown_text(row["model"])
    if licence is None:
        return f"The licence of {base}. It was not found beside the model: look at the base model."
    return f"The licence of {base}: {markdown_text(licence)}."


def licence_of(directory: Path | None, repo: str | None, revision: str | None) -> str | None:
    """Return the licence that a base model's own card names; no network is asked.

    Args:
        directory: that of a local model.
        repo: the hub's name of a model whose card may be in the cache.
        revision: the hub commit.
    """
    card = directory / "README.md" if directory is not None else None
    if repo is not None:
        cached = try_to_load_from_cache(repo, "README.md", revision=revision)
        card = Path(cached) if isinstance(cached, str) else None
    if card is None or not card.is_file():
        return None
    try:
        return ModelCard.load(card).data.get("license")
    except ValueError:
        return None
