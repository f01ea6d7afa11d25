"""A sweep made ready: names resolved, plan built, finished work found, texts read.

Nothing is written here but the sweep's record and the marker of its directory.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from core.checks import require
from orchestrator.blocks import blocks_of, science_of
from orchestrator.config import ResourceConfig, SweepConfig
from orchestrator.estimate.block_costs import device_of, micro_batch_of, model_costs
from orchestrator.estimate.forecast import count_text_tokens
from orchestrator.estimate.keep_policy import stages_to_drop
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.estimate.seconds import stage_seconds
from orchestrator.inputs.about_tokens import NumTokens, about_text_tokens
from orchestrator.inputs.known_models import facts_record
from orchestrator.inputs.models import (
    ResolvedModel,
    require_checked,
    resolve_blocks,
    together,
)
from orchestrator.inputs.task_names import resolve_tasks
from orchestrator.inputs.tokens import missing_tokens
from orchestrator.inputs.training_tokens import TrainingTokens, training_tokens
from orchestrator.out_dir import require_out_dir, told_if_unwritable
from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import identity
from orchestrator.plan.inputs import EvaluationText
from orchestrator.plan.plan import Plan
from orchestrator.plan.stages import Stage
from orchestrator.plan.trials import Trial, needed_stages, pack_trials
from orchestrator.planning import Found, Resolved, missing_cells, searched_plan
from orchestrator.results import versions
from orchestrator.results.keeping import KEEPS, Wishes
from orchestrator.results.published import known_values
from orchestrator.results.record import (
    BLOCKS,
    FOLDER,
    Record,
    describe_cells,
    find_record,
    finder,
    recorded_models,
)
from orchestrator.store.store import Store


@dataclass(frozen=True)
class Sweep:
    """A resolved sweep: what is asked for, what is there, what is missing."""

    config: SweepConfig
    """The settings; where blocks have settings of their own, those of the first."""
    resolved: Resolved
    plan: Plan
    store: Store
    found: Found
    cells: tuple[Cell, ...]
    """Cells to run."""
    needed: frozenset[str]
    """Stages to run."""
    costs: dict[str, ModelCost]
    """Counts of each model, by name."""
    sources: str = field(default_factory=versions.source_hash)
    """Hash of the sources that this sweep was planned with."""
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Name of this run, which the rows that it writes carry."""
    worker_cores: int | None = None
    """Cores of each worker, where no flag gives them and `worker_cores.py` has chosen."""

    @property
    def resources(self) -> ResourceConfig:
        """The resources as they were given, and with them the cores that were chosen."""
        given, cores = self.config.resources, self.worker_cores
        return given if cores is None else replace(given, cpus_per_worker=cores)

    @cached_property
    def models(self) -> tuple[ResolvedModel, ...]:
        """The models of all blocks, each once."""
        return tuple(together(self.resolved))

    @cached_property
    def id(self) -> str:
        """Name of this grid: a hash of its rows, and of what they are called."""
        cells = [cell for cell in describe_cells(self.plan) if not cell.get("searched")]
        names = {key: text for cell in cells for key, text in cell["rows"].items()}
        # Cells that a search adds one after another do not change the name.
        search = [self.plan.within] if any(self.plan.within) else []
        return identity([self.config.grid.protocol, names, *search])[:12]

    @cached_property
    def blocks(self) -> tuple[SweepConfig, ...]:
        """The blocks of the plan, each a whole scalar setting."""
        return blocks_of(self.config)

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """All settings of each block as JSON, as rows hold them."""
        return tuple(json.dumps(block.to_dict(), sort_keys=True) for block in self.blocks)

    @property
    def trains(self) -> bool:
        """True if any regime of any block trains."""
        return any(block.grid.trains for block in self.blocks)

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return device_of(self.config)

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens a forward pass: as asked for, or the device's default."""
        return micro_batch_of(self.config)

    @cached_property
    def dropped(self) -> set[str]:
        """Stages whose weights the keep policy does not keep."""
        return stages_to_drop(self.plan, self.costs, self.config.output.keep)

    @cached_property
    def held(self) -> set[str]:
        """Stages from which a search may go on: their weights stay as long as it lasts."""
        cells = self.plan.cells.values() if any(self.plan.within) else ()
        on_path = {s for cell in cells if cell.regime == "iterative" for s in cell.stages}
        return {stage for stage in on_path if self.plan.stages[stage].work.trains}

    def model(self, name: str) -> ResolvedModel:
        """Return a model by name."""
        return next(model for model in self.models if model.inputs.name == name)

    def missing_tasks(self) -> list[Stage]:
        """Return the task stages of the grid that the store does not hold."""
        stages = self.plan.task_stages()
        return [stage for stage in stages if stage.id not in self.found.manifests]


@dataclass(frozen=True)
class Texts:
    """Texts of the stages to run, tokenised, and the time that stages take by them."""

    tokens: dict[str, Tensor]
    """Tokens and counts that the store does not hold, by the name of their file."""
    num_tokens: dict[str, int]
    """Tokens of the text that an evaluation to run reads, by stage."""
    seconds: dict[str, float]
    """Estimated seconds of every stage."""
    training: TrainingTokens = field(default_factory=TrainingTokens)
    """Token files of training texts, to be made while trials run."""
    about: Mapping[str, Mapping[EvaluationText, NumTokens]] = field(default_factory=dict)
    """Tokens of evaluated texts by model, as a dry run tells them."""


def prepare(config: SweepConfig, repeated: Store | None = None) -> Sweep:
    """Resolve names, plan, and find out what is done; write nothing.

    Args:
        config: the settings.
        repeated: the store of the sweep that this one repeats; models have its names.

    Raises:
        ValueError: bad input, in one line.
    """
    known_values(config.output.published)
    store = Store(config.output.out_dir)
    require_out_dir(store, writes=not config.output.dry_run)
    blocks = blocks_of(config)
    resolved = resolve_blocks(blocks, recorded_models(repeated or store))
    remedy = "tasks start from kept weights; use --keep final"
    keep, asks_tasks = config.output.keep, bool(resolve_tasks(config.eval))
    require(keep != "none" or not asks_tasks, "keep", keep, remedy)
    sweep = planned(config, resolved, store)
    if sweep.cells:
        require_checked(config, sweep.models)
    return sweep


def planned(config: SweepConfig, resolved: Resolved, store: Store) -> Sweep:
    """Plan the grid and what its search asks for, by what the store holds now."""
    found = Found(*store.stages.inspect(), store.rows.read())
    plan = searched_plan(config, resolved, found)
    cells, lost = missing_cells(config, plan, found)
    needed = needed_stages(plan, cells, set(found.manifests) - lost, found.kept)
    costs = model_costs(blocks_of(config), resolved)
    return Sweep(config, resolved, plan, store, found, tuple(cells), frozenset(needed), costs)


def texts_of_dry_run(sweep: Sweep) -> Texts:
    """Return what a dry run knows of texts: evaluated tokens, by small samples of the texts."""
    stages = [stage for stage in sweep.plan.stages.values() if stage.id in sweep.needed]
    about = about_text_tokens(sweep.models, stages, sweep.store)
    counts = {
        stage.id: about[stage.model][reading].count
        for stage in stages
        for reading in stage.work.readings()
        if isinstance(reading, EvaluationText)
    }
    return Texts({}, counts, stage_seconds(sweep.plan, sweep.costs, counts), about=about)


def read_texts(sweep: Sweep) -> Texts:
    """Tokenise what the stages to run read, and estimate their seconds by it.

    Training texts are only checked: `Texts.training` makes their tokens. A dry run makes none.
    """
    if sweep.config.output.dry_run:
        return texts_of_dry_run(sweep)
    stages = [stage for stage in sweep.plan.stages.values() if stage.id in sweep.needed]
    training = training_tokens(sweep.models, stages, sweep.store, sweep.attempt)
    tokens = missing_tokens(sweep.models, stages, sweep.store)
    counts = count_text_tokens(stages, sweep.models, tokens, sweep.store)
    return Texts(tokens, counts, stage_seconds(sweep.plan, sweep.costs, counts), training)


def trials_of(sweep: Sweep, seconds: dict[str, float], slots: int) -> list[Trial]:
    """Return the missing work, packed into trials."""
    return pack_trials(sweep.plan, sweep.cells, sweep.needed, seconds, slots)


def write_record(sweep: Sweep) -> Record:
    """Write settings, versions and command beside the results; return them."""
    script, *flags = sys.argv  # A preset, or the console command prune-sweep.
    name = Path(script).name
    started = [name] if name == "prune-sweep" else ["python", script]
    record = {
        "sweep_id": sweep.id,
        "command": shlex.join([*started, *flags]),
        "config": sweep.config.to_dict(),
        "models": {m.inputs.name: m.inputs.record() for m in sweep.models},
        "sources": {m.inputs.name: dataclasses.asdict(m.source) for m in sweep.models},
        "facts": {
            "found_by": finder(),
            "models": {m.inputs.name: facts_record(m.source, m.facts) for m in sweep.models},
        },
        "cells": describe_cells(sweep.plan),
        KEEPS: sorted(kept_stages(sweep)),
        "versions": versions.environment(),
    }
    if len(sweep.blocks) > 1:
        record[BLOCKS] = [science_of(block) for block in sweep.blocks]
    data = json.dumps(record, indent=1, default=str).encode()
    with told_if_unwritable(sweep.store):
        sweep.store.files.write_bytes(data, FOLDER, f"{sweep.id}.json")
    return record


def kept_stages(sweep: Sweep) -> set[str]:
    """Return the stages whose weights the sweep keeps.

    Weights that the same grid kept under another `--keep`, and that are there, stay.
    """
    weights = {stage.id for stage in sweep.plan.stages.values() if stage.work.stores_weights}
    before = find_record(sweep.store, sweep.id)
    earlier = None if before is None else Wishes.of(before)
    found = sweep.found.manifests
    stay = {s for s in weights & sweep.found.kept if earlier and earlier.include(found[s])}
    return (weights - sweep.dropped) | stay
