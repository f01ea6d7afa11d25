"""Pure planning: a grid becomes cells and stages, before anything runs.

Stages form one tree per model, rooted at the dense model. Nothing here reads a file or knows Ray.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core.config import FinetuneConfig, PruneConfig
from core.methods import METHODS, OPTION_VERSIONS, needs_calibration
from core.schedule import round_tokens
from core.targets import Target
from orchestrator.config import GridConfig
from orchestrator.plan.inputs import ModelInputs
from orchestrator.plan.plan import Plan

FINETUNE_VERSION = 1
"""Raised whenever the numbers of finetune stages would change."""
RECOVERY_VERSIONS = {"objective": 1, "distill": 1, "trainable": 1}
"""Raised with the numbers of training that has one of these on."""
DENSE = "dense"


def recovery_fields(config: FinetuneConfig) -> dict[str, Any]:
    """What a training stage's identity has where training is not the plain one."""
    found = config.recovery()
    return found | {f"{key}_version": v for key, v in RECOVERY_VERSIONS.items() if key in found}


class Planner:
    """Builds the plan of one grid."""

    def __init__(self, grid: GridConfig, prune: PruneConfig, finetune: FinetuneConfig) -> None:
        self.grid, self.prune, self.finetune = grid, prune, finetune

    def build(self, models: Iterable[ModelInputs]) -> Plan:
        """Cells of all models, methods, regimes, targets and seeds."""
        plan = Plan({model.name: model for model in models})
        for model in plan.models.values():
            root = plan.add_stage(
                "dense", model.name, DENSE, None, {"model": model.identity, "dtype": model.dtype}
            )
            plan.add_cell(model, DENSE, DENSE, Target(0.0), None, [root], (), 0, 0)
            if self.grid.trains:
                for seed in self.grid.seeds:
                    self.add_control(plan, model, root, seed)
            for method in self.grid.methods:
                for seed in self.grid.seeds:
                    for regime in self.grid.regimes:
                        for target in self.grid.targets():
                            self.add_branch(plan, model, method, regime, target, seed, root)
        return plan

    def add_control(self, plan: Plan, model: ModelInputs, root: str, seed: int) -> None:
        """The dense model trained round by round with the same tokens, a second reference."""
        budget = self.finetune.budget
        rounds = self.grid.most_rounds() if budget == "round" else 1
        stages = [root]
        for i, tokens in enumerate(round_tokens(model.finetune_tokens, rounds, budget), start=1):
            stages.append(self.add_finetune(plan, model, DENSE, stages[-1], tokens, seed, i))
            plan.add_cell(model, DENSE, "finetune", Target(0.0), seed, stages, (), i, rounds)

    def add_branch(
        self,
        plan: Plan,
        model: ModelInputs,
        method: str,
        regime: str,
        target: Target,
        seed: int,
        root: str,
    ) -> None:
        """One cell with all stages on the way to it."""
        path = self.grid.path(regime, target)
        tokens = round_tokens(model.finetune_tokens, len(path), self.finetune.budget)
        stages, before = [root], ()
        for i, (step, step_tokens) in enumerate(zip(path, tokens), start=1):
            stages.append(self.add_prune(plan, model, method, stages[-1], step, seed))
            if regime != "oneshot":
                before = plan.add_evaluations(model, method, stages[-1])
                stages.append(
                    self.add_finetune(plan, model, method, stages[-1], step_tokens, seed, i)
                )
        seeded = any("seed" in plan.stages[stage].fields for stage in stages)
        plan.add_cell(
            model,
            method,
            regime,
            target,
            seed if seeded else None,
            stages,
            before,
            len(path),
            len(path),
            tuple(step.sparsity for step in path),
        )

    def add_prune(
        self, plan: Plan, model: ModelInputs, method: str, parent: str, target: Target, seed: int
    ) -> str:
        """A prune stage; only fields that the method reads enter its identity."""
        pruner = METHODS[method]
        settings = self.prune.settings(pruner.fields_read)
        fields: dict[str, Any] = {
            "method": method,
            "version": pruner.version,
            "settings": settings,
            "sparsity": target.sparsity,
            "mask_structure": target.mask_structure,
        }
        options = {f"{name}_version": v for name, v in OPTION_VERSIONS.items() if name in settings}
        fields |= options
        text = None
        if needs_calibration(method, self.prune):
            assert model.calibration is not None
            fields |= {"calibration": model.calibration.fields, "seed": seed, "dtype": model.dtype}
            text = model.calibration.name
        return plan.add_stage("prune", model.name, method, parent, fields, text)

    def add_finetune(
        self,
        plan: Plan,
        model: ModelInputs,
        method: str,
        parent: str,
        tokens: int,
        seed: int,
        round_index: int,
    ) -> str:
        """A round of training."""
        assert model.finetune is not None
        config = self.finetune
        rates = list(config.lrs)
        choice = {} if model.validation is None else {"validation": model.validation.fields}
        fields = {
            "version": FINETUNE_VERSION,
            "text": model.finetune.fields,
            "tokens": tokens,
            "batch_tokens": model.batch_tokens,
            "lr": rates if len(rates) > 1 else rates[0],
            "warmup_frac": config.warmup_frac,
            "weight_decay": config.weight_decay,
            "clip_norm": config.clip_norm,
            "dtype": model.training_dtype,
            "seed": seed,
            "round": round_index,
            **recovery_fields(config),
            **choice,
        }
        return plan.add_stage("finetune", model.name, method, parent, fields, model.finetune.name)
