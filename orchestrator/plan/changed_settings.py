"""Changed settings: the reason why a stage is not in the store, in words.

A stage is named by a hash, so a changed setting shows as a stage that is not there. The nearest
stored one at the same place of the grid says which setting it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.plan.cell import Cell
from orchestrator.plan.plan import Plan
from orchestrator.plan.stages import Stage

PLACE = ("method", "sparsity", "mask_structure", "seed", "round")
"""Fields that say at which point of the grid a stage is."""
SHORT = 24
"""Characters of a value that is worth showing; hashes of texts are longer."""


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested fields under dotted names."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


class StoredStages:
    """Stored stages by their place in the grid, so that a near one is found without a search."""

    def __init__(self, manifests: Mapping[str, Mapping[str, Any]]) -> None:
        self.found: dict[tuple[Any, ...], list[tuple[str | None, dict[str, Any]]]] = {}
        """For each place, with a parent or with None for any, the parents and fields stored."""
        for manifest in manifests.values():
            fields = flat(manifest["fields"])
            names = (manifest["kind"], manifest["method"], manifest["model"])
            for parent in (manifest["parent"], None):
                place = (*names, *map(fields.get, PLACE), parent)
                self.found.setdefault(place, []).append((manifest["parent"], fields))

    def near(self, stage: Stage, fields: Mapping[str, Any]) -> list[tuple[str | None, dict]]:
        """Return the parents and fields of stored stages at a stage's place in the grid."""
        # Only a stage that prunes says where in the grid its parent stands.
        parent = stage.parent if stage.work.target_after() is None else None
        place = (stage.kind, stage.method, stage.model, *map(fields.get, PLACE), parent)
        return self.found.get(place, [])


def changes(plan: Plan, cell: Cell, missing: Collection[str], stored: StoredStages) -> list[str]:
    """Return how the first missing stage differs from a stored one near it; empty without one.

    Args:
        plan: the plan of the cell.
        cell: one that is to run.
        missing: its stages that are not stored.
        stored: what is stored.
    """
    stages = (plan.stages[stage] for stage in cell.all_stages() if stage in missing)
    return next(filter(None, (changed_fields(s, plan, stored) for s in stages)), [])


def changed_fields(stage: Stage, plan: Plan, stored: StoredStages) -> list[str]:
    """Return how the nearest stored stage differs, such as `lr was 0.0003, is 0.0001`.

    Args:
        stage: one that is not stored.
        plan: the plan that it belongs to.
        stored: what is stored.
    """
    mine = flat(stage.fields)
    nearest: list[str] | None = None
    for parent, theirs in stored.near(stage, mine):
        differing = [name for name in mine | theirs if theirs.get(name) != mine.get(name)]
        said = [difference(name, theirs.get(name), mine.get(name)) for name in differing]
        if parent != stage.parent:
            said.append(parent_difference(stage, plan))
        if said and (nearest is None or len(said) < len(nearest)):
            nearest = said
    return nearest or []


def difference(name: str, before: Any, now: Any) -> str:
    """Return one changed field in words, with its values where they are short."""
    if max(len(str(before)), len(str(now))) > SHORT:
        return f"{name} changed"
    return f"{name} was {before}, is {now}"


def parent_difference(stage: Stage, plan: Plan) -> str:
    """Return what a changed parent means: another model at the root, else another path."""
    assert stage.parent is not None
    root = plan.stages[stage.parent].parent is None
    return "the model or its dtype changed" if root else "the path before it changed"
