"""The keep policy: the stages whose weights `--keep` keeps, and the disk that they take."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from orchestrator.config import Keep
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.plan.plan import Plan
from orchestrator.plan.stages import Stage

KEEP_ALL_BELOW_BYTES = 2e9
"""Below this total, all weights are kept by default."""


def stages_to_drop(plan: Plan, costs: Mapping[str, ModelCost], keep: Keep | None) -> set[str]:
    """Return the stages whose weights are dropped once no stage starts from them.

    Args:
        plan: the whole plan, so that one policy holds for all of its models.
        costs: of each model, by name.
        keep: as asked for; None keeps all where the plan is small, else final models.
    """
    weights = {stage.id for stage in plan.stages.values() if stage.work.stores_weights}
    finals = {cell.stages[-1] for cell in plan.cells.values()}
    if keep is None:
        size = kept_bytes(plan.stages.values(), costs, dropped=())
        keep = "all" if size < KEEP_ALL_BELOW_BYTES else "final"
    return {"all": set(), "final": weights - finals, "none": weights}[keep]


def kept_bytes(
    stages: Iterable[Stage], costs: Mapping[str, ModelCost], dropped: Collection[str]
) -> float:
    """Return the disk of all weights but those dropped."""
    kept = [s for s in stages if s.work.stores_weights and s.id not in dropped]
    return sum(costs[stage.model].stage_bytes(stage.work.trains) for stage in kept)
