"""A sweep made ready: names resolved, plan built, finished work found."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from core.checks import BadInputError, require
from core.measures.zero_shot import require_tasks
from orchestrator.config import SweepConfig
from orchestrator.estimate.forecast import count_eval_tokens
from orchestrator.estimate.keep import stages_to_drop
from orchestrator.estimate.model_cost import ModelCost, stage_seconds
from orchestrator.inputs.resolved import ResolvedModel, resolve_inputs
from orchestrator.inputs.tokens import missing_tokens
from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import identity
from orchestrator.plan.plan import Plan
from orchestrator.plan.planner import Planner
from orchestrator.plan.tasks import TaskRun, task_runs, wanted_weights
from orchestrator.plan.trials import dropped_cells, needed_stages, to_run
from orchestrator.results import versions
from orchestrator.results.published import known_values
from orchestrator.results.record import FOLDER, describe_cells
from orchestrator.store.store import MARKER, Store


def write_record(sweep: Sweep) -> None:
    """The resolved settings, versions and command beside the results."""
    script, *flags = sys.argv  # A preset, or the console command prune-sweep.
    started = ["python", script] if script.endswith(".py") else [Path(script).name]
    record = {
        "sweep_id": sweep.id,
        "command": shlex.join([*started, *flags]),
        "config": sweep.config.to_dict(),
        "models": {m.inputs.name: dataclasses.asdict(m.inputs) for m in sweep.models},
        "sources": {m.inputs.name: dataclasses.asdict(m.source) for m in sweep.models},
        "cells": describe_cells(sweep.plan),
        "versions": versions.environment(),
    }
    data = json.dumps(record, indent=1, default=str).encode()
    sweep.store.files.write_bytes(data, FOLDER, f"{sweep.id}.json")


MICRO_BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}


@dataclass
class Sweep:
    """A resolved sweep: what is asked for, what is there, what is missing."""

    config: SweepConfig
    models: list[ResolvedModel]
    plan: Plan
    store: Store
    manifests: dict[str, dict]
    rows: dict[str, dict]
    cells: list[Cell]
    """Cells to run."""
    needed: set[str]
    """Stages to run."""
    costs: dict[str, ModelCost]
    """Of each model, by name."""
    damaged: dict[str, str]
    """Stages that are not whole, and why: they count as missing, and a run sets them aside."""
    eval_tokens: dict[str, int] = field(default_factory=dict)
    """Tokens of the text that an evaluate stage to run reads."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Estimated seconds of every stage."""

    @cached_property
    def id(self) -> str:
        """Names this grid: its rows, and what they are called."""
        rows = [cell["rows"] for cell in describe_cells(self.plan)]
        names = {key: text for found in rows for key, text in found.items()}
        return identity([self.config.grid.protocol, names])[:12]

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return "cuda" if self.config.resources.use_gpu else "cpu"

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens a forward pass: as asked for, or the device's default."""
        return self.config.resources.micro_batch_tokens or MICRO_BATCH_TOKENS[self.device]

    @cached_property
    def dropped(self) -> set[str]:
        """Weight stages that the keep policy does not keep."""
        return stages_to_drop(self.plan, self.costs, self.config.output.keep)


def prepare(config: SweepConfig) -> Sweep:
    """Resolves names, plans, and finds out what is done; writes nothing."""
    known_values(config.output.published)
    store = Store(config.output.out_dir)
    require_own_directory(store)
    if config.eval.tasks:
        require_tasks(config.eval.tasks)
    models = resolve_inputs(config)
    plan = Planner(config.grid, config.prune, config.finetune).build(m.inputs for m in models)
    (manifests, damaged), rows = store.stages.inspect(), store.rows.read()
    retry, limit = config.output.retry_failed, config.resources.stop_perplexity
    stored = set(manifests)
    cells = [cell for cell in plan.cells.values() if to_run(cell, rows, stored, retry, limit)]
    with_weights = {s for s, m in manifests.items() if not m.get("dropped")}
    lost = dropped_cells(plan, manifests) if config.output.keep in ("final", "all") else []
    lacking = wanted_weights(plan, config.eval, manifests) - with_weights
    lost += [c for c in plan.cells.values() if c.stages[-1] in lacking and c not in lost]
    cells += [cell for cell in lost if cell not in cells]
    stored = set(manifests) - {cell.stages[-1] for cell in lost}
    needed = needed_stages(plan, cells, stored, with_weights)
    device = "cuda" if config.resources.use_gpu else "cpu"
    resources = config.resources
    options = {
        "finetune": config.finetune,
        "recompute": resources.activation_checkpointing,
        "cpu_offload": resources.cpu_offload,
    }
    costs = {m.inputs.name: ModelCost(m.facts, m.inputs, device, **options) for m in models}
    return Sweep(config, models, plan, store, manifests, rows, cells, needed, costs, damaged)


def read_texts(sweep: Sweep) -> dict[str, Tensor]:
    """Tokenises what the stages to run read, and estimates their seconds by it."""
    stages = {stage: sweep.plan.stages[stage] for stage in sweep.needed}
    tokens = missing_tokens(sweep.models, stages, sweep.store)
    sweep.eval_tokens = count_eval_tokens(stages.values(), sweep.models, tokens, sweep.store)
    sweep.seconds = stage_seconds(sweep.plan, sweep.costs, sweep.eval_tokens)
    return tokens


def require_own_directory(store: Store) -> None:
    """Refuses an out-dir that holds something that is no sweep's."""
    if store.files.is_local and os.path.exists(store.files.path):
        require(
            os.path.isdir(store.files.path), "out-dir", store.root, "is a file; name a directory"
        )
        # A sweep killed in its first moment leaves a half-written marker.
        others = [name for name in os.listdir(store.files.path) if not name.startswith(MARKER)]
        require(
            not others or store.files.exists(MARKER),
            "out-dir",
            store.root,
            "holds something else; name a new directory or one of an earlier sweep",
        )


def require_writable(store: Store) -> None:
    """Marks the directory as a sweep's."""
    try:
        if not store.files.exists(MARKER):
            store.files.write_bytes(b'{"format": 1}\n', MARKER)
        store.scratch.tidy()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInputError(f"--out-dir {store.root}: cannot be written ({reason})") from None


def missing_runs(sweep: Sweep) -> list[TaskRun]:
    """Task runs of the grid that the store does not hold."""
    wanted = task_runs(sweep.plan, sweep.config.eval.tasks, sweep.config.eval.task_limit)
    return [run for run in wanted if run.stage.id not in sweep.manifests]
