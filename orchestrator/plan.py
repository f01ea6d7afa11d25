"""Pure planning: a grid becomes cells and stages, before anything runs.

Stages form one tree per model, rooted at the dense model; a stage's id is a hash of everything that
determines its numbers, so regimes that meet at one stage share it and a finished stage is found
again by any later sweep. Nothing here reads a file or knows Ray.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from core.allocation import ALLOCATION_VERSION
from core.config import FinetuneConfig, PruneConfig, Target
from core.pruners import PRUNERS, needs_calibration
from core.pruners.quantise import QUANTISE_VERSION
from core.pruners.refine import REFINE_VERSION
from core.schedule import round_tokens, scheduled_path, structured_path, unstructured_path
from orchestrator.config import GridConfig

# ALGORITHM_VERSION of the stage kinds; raised whenever their numbers would change.
FINETUNE_VERSION, EVALUATE_VERSION = 1, 1
OPTION_VERSIONS = {
    "refine": REFINE_VERSION,
    "allocation": ALLOCATION_VERSION,
    "weight_bits": QUANTISE_VERSION,
}
DENSE = "dense"
DEFAULT_ROUNDS = 5


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces; refuses what would not come out the same."""

    def check(item: Any) -> None:
        if isinstance(item, dict):
            assert all(isinstance(key, str) for key in item), f"keys must be strings: {item}"
            for each in item.values():
                check(each)
        elif isinstance(item, list | tuple):
            for each in item:
                check(each)
        elif isinstance(item, float):
            assert math.isfinite(item), f"not a finite number: {item}"
        else:
            assert item is None or isinstance(item, str | int | bool), f"cannot hash {item!r}"

    check(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def identity(value: Any) -> str:
    """First 32 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class TextInput:
    """A text in one role, with the fields of it that numbers depend on."""

    name: str
    """As the user named it."""
    fields: dict[str, Any]
    """Content identity and windows: enters stage identities."""


@dataclass(frozen=True)
class ModelInputs:
    """A model and its resolved texts: all that planning needs to know of it."""

    name: str
    identity: str
    dtype: str
    """Of loading, calibration and evaluation."""
    training_dtype: str
    calibration: TextInput | None
    finetune: TextInput | None
    finetune_tokens: int
    batch_tokens: int
    evaluations: tuple[TextInput, ...]


@dataclass(frozen=True)
class Stage:
    """One step on the way to a cell."""

    id: str
    kind: str
    """`dense`, `prune`, `finetune` or `evaluate`."""
    model: str
    method: str
    parent: str | None
    fields: dict[str, Any]
    """What the id is a hash of, parent included through its id."""
    text: str | None = None
    """Name of the text it reads, for rows."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid; one row per evaluation text."""

    id: str
    model: str
    method: str
    regime: str
    target: Target
    seed: int | None
    stages: tuple[str, ...]
    """Weight stages from the dense model to this cell's last, the dense one included."""
    evaluations: tuple[str, ...]
    """Evaluate stages of the last stage, in the order of the model's texts."""
    before: tuple[str, ...]
    """Evaluate stages before this round's training; empty where nothing was trained."""
    round: int
    num_rounds: int
    path: tuple[float, ...]
    """Sparsities that the branch passed through."""

    def all_stages(self) -> tuple[str, ...]:
        """Every stage that this cell's rows are made of, the dense model first."""
        return (*self.stages, *self.before, *self.evaluations)


@dataclass
class Plan:
    """All cells and stages of a grid, in the order they were asked for."""

    models: dict[str, ModelInputs]
    stages: dict[str, Stage] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)

    def add_stage(
        self,
        kind: str,
        model: str,
        method: str,
        parent: str | None,
        fields: dict[str, Any],
        text: str | None = None,
    ) -> str:
        """Adds a stage, or finds the equal one; returns its id."""
        stage_id = identity({"kind": kind, "parent": parent, **fields})
        if stage_id not in self.stages:
            self.stages[stage_id] = Stage(stage_id, kind, model, method, parent, fields, text)
            if parent is not None:
                self.children.setdefault(parent, []).append(stage_id)
        return stage_id

    def row_keys(self) -> set[tuple[str, str]]:
        """(cell id, evaluate stage id) of every row that the grid asks for."""
        return {(cell.id, stage) for cell in self.cells.values() for stage in cell.evaluations}

    def walk(self, stage_id: str) -> Iterator[Stage]:
        """A stage and all below it, parents first, evaluations before further steps."""
        yield self.stages[stage_id]
        below = [self.stages[child] for child in self.children.get(stage_id, [])]
        for stage in sorted(below, key=lambda stage: stage.kind != "evaluate"):
            yield from self.walk(stage.id)

    def roots(self) -> list[Stage]:
        """The dense models."""
        return [stage for stage in self.stages.values() if stage.parent is None]


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
            self.add_cell(plan, model, DENSE, DENSE, Target(0.0), None, [root], (), 0, 0)
            if self.grid.trains:
                for seed in self.grid.seeds:
                    self.add_control(plan, model, root, seed)
            for method in self.grid.methods:
                for seed in self.grid.seeds:
                    for regime in self.grid.regimes:
                        for target in self.grid.targets():
                            self.add_branch(plan, model, method, regime, target, seed, root)
        return plan

    def path(self, regime: str, target: Target) -> list[Target]:
        """The targets that a branch passes through on the way to its last."""
        if regime != "iterative":
            return [target]
        if target.mask_structure is not None:
            return structured_path(target.mask_structure)
        if self.grid.schedule == "grid":
            return unstructured_path(target.sparsity, [round(s, 6) for s in self.grid.sparsities])
        rounds = self.grid.num_rounds or DEFAULT_ROUNDS
        return scheduled_path(target.sparsity, rounds, self.grid.schedule)

    def add_control(self, plan: Plan, model: ModelInputs, root: str, seed: int) -> None:
        """The dense model trained round by round with the same tokens, a second reference."""
        budget = self.finetune.budget
        longest = max(
            len(self.path(regime, target))
            for regime in self.grid.regimes
            if regime != "oneshot"
            for target in self.grid.targets()
        )
        rounds = longest if budget == "round" else 1
        stages = [root]
        for i, tokens in enumerate(round_tokens(model.finetune_tokens, rounds, budget), start=1):
            stages.append(self.add_finetune(plan, model, DENSE, stages[-1], tokens, seed, i))
            self.add_cell(plan, model, DENSE, "finetune", Target(0.0), seed, stages, (), i, rounds)

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
        path = self.path(regime, target)
        tokens = round_tokens(model.finetune_tokens, len(path), self.finetune.budget)
        stages, before = [root], ()
        for i, (step, step_tokens) in enumerate(zip(path, tokens), start=1):
            stages.append(self.add_prune(plan, model, method, stages[-1], step, seed))
            if regime != "oneshot":
                before = self.add_evaluations(plan, model, method, stages[-1])
                stages.append(
                    self.add_finetune(plan, model, method, stages[-1], step_tokens, seed, i)
                )
        seeded = any("seed" in plan.stages[stage].fields for stage in stages)
        self.add_cell(
            plan,
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
        pruner = PRUNERS[method]
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
        fields = {
            "version": FINETUNE_VERSION,
            "text": model.finetune.fields,
            "tokens": tokens,
            "batch_tokens": model.batch_tokens,
            "lr": config.lr,
            "warmup_frac": config.warmup_frac,
            "weight_decay": config.weight_decay,
            "clip_norm": config.clip_norm,
            "dtype": model.training_dtype,
            "seed": seed,
            "round": round_index,
        }
        return plan.add_stage("finetune", model.name, method, parent, fields, model.finetune.name)

    def add_evaluations(
        self, plan: Plan, model: ModelInputs, method: str, parent: str
    ) -> tuple[str, ...]:
        """One evaluate stage per text."""
        return tuple(
            plan.add_stage(
                "evaluate",
                model.name,
                method,
                parent,
                {"version": EVALUATE_VERSION, "dtype": model.dtype, "text": text.fields},
                text.name,
            )
            for text in model.evaluations
        )

    def add_cell(
        self,
        plan: Plan,
        model: ModelInputs,
        method: str,
        regime: str,
        target: Target,
        seed: int | None,
        stages: list[str],
        before: tuple[str, ...],
        round_index: int,
        num_rounds: int,
        path: tuple[float, ...] = (),
    ) -> None:
        """A cell at the end of `stages`; equal cells (a seed without effect) are one."""
        coordinates = {
            "stage": stages[-1],
            "model": model.name,
            "method": method,
            "regime": regime,
            "target": dataclasses.asdict(target),
            "seed": seed,
        }
        cell_id = identity(coordinates)
        evaluations = self.add_evaluations(plan, model, method, stages[-1])
        plan.cells.setdefault(
            cell_id,
            Cell(
                cell_id,
                model.name,
                method,
                regime,
                target,
                seed,
                tuple(stages),
                evaluations,
                before,
                round_index,
                num_rounds,
                path,
            ),
        )
