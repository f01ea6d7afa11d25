"""Which stages keep their weights: what --keep means for a plan, and the disk that it takes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from orchestrator.config import Keep
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.plan.plan import Plan
from orchestrator.plan.stages import Stage

KEEP_ALL_BELOW_BYTES = 2e9
"""Weights of a whole plan, of all its models, that are kept where nothing else is asked for."""


def stages_to_drop(plan: Plan, costs: Mapping[str, ModelCost], keep: Keep | None) -> set[str]:
    """Weight stages that are not kept once their children are done.

    Args:
        plan: the whole plan, so that one policy holds for all of its models.
        costs: of each model, by name.
        keep: as asked for; None keeps all where the plan is small, else final models.
    """
    weights = {stage.id for stage in plan.stages.values() if stage.kind in ("prune", "finetune")}
    finals = {cell.stages[-1] for cell in plan.cells.values()}
    if keep is None:
        size = kept_bytes(plan.stages.values(), costs, dropped=())
        keep = "all" if size < KEEP_ALL_BELOW_BYTES else "final"
    return {"all": set(), "final": weights - finals, "none": weights}[keep]


def kept_bytes(
    stages: Iterable[Stage], costs: Mapping[str, ModelCost], dropped: Collection[str]
) -> float:
    """Disk of the weights of all stages but those dropped, each at the size of its own model."""
    kept = [s for s in stages if s.kind in ("prune", "finetune") and s.id not in dropped]
    return sum(costs[stage.model].stage_bytes(stage.kind == "finetune") for stage in kept)
