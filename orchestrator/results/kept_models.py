"""The pruned models that a store holds, with their sizes and the sweeps that ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.results.keeping import TEMPORARY, RecordedWishes
from orchestrator.results.names import CellName
from orchestrator.results.record import find_record
from orchestrator.store.store import Store


@dataclass(frozen=True)
class KeptModel:
    """Weights of one stage."""

    stage: str
    size: int
    """Bytes of its files."""
    name: str
    """The first cell that ends in these weights; else model, method and kind of stage."""
    asked_by: tuple[str, ...]
    """Sweeps that keep it."""
    left_by: str | None
    """The sweep that made it for others and was stopped before it dropped it."""

    @property
    def line(self) -> str:
        """The model in one line."""
        why = f"kept by {', '.join(self.asked_by)}" if self.asked_by else "asked for by no sweep"
        if self.left_by is not None and not self.asked_by:
            why = f"left by {self.left_by}"
        return f"  {self.stage[:12]}  {mebibytes(self.size):>12}  {self.name}  ({why})"


def mebibytes(size: float) -> str:
    """Return a size in MiB."""
    return f"{size / 2**20:,.1f} MiB"


def kept_models(store: Store) -> list[KeptModel]:
    """Return the models of a store, the largest first."""
    manifests, _ = store.stages.inspect()
    rows = [row for row in store.rows.read().values() if "_copy_of" not in row]
    names = {row["stage_id"]: CellName.of_row(row).full for row in reversed(rows)}
    wishes = RecordedWishes(store)
    found = [
        KeptModel(
            stage,
            sum(entry["size"] for entry in manifest["files"].values()),
            names.get(stage) or between(manifest),
            tuple(wishes.asking(manifest)),
            manifest.get(TEMPORARY),
        )
        for stage, manifest in manifests.items()
        if manifest["files"]
    ]
    return sorted(found, key=lambda model: (-model.size, model.name, model.stage))


def between(manifest: dict[str, Any]) -> str:
    """Return the name of a stage in which no cell ends."""
    return f"{manifest['model']} {manifest['method']}, a {manifest['kind']} stage on the way"


def describe_models(store: Store, models: list[KeptModel]) -> str:
    """Return the models, their sizes, and the commands of the sweeps that ask for them."""
    total = mebibytes(sum(model.size for model in models))
    lines = [f"{store.root}: {len(models)} models, {total}", *(model.line for model in models)]
    for sweep in sorted({sweep for model in models for sweep in model.asked_by}):
        command = (find_record(store, sweep) or {}).get("command", "command not recorded")
        lines.append(f"  sweep {sweep}: {command}")
    return "\n".join(lines)
