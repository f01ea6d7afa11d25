"""The dry run: cells, finished work, trials, memory and time, as text."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from core.models.facts import BY_HEAD, ROUTER, ModelFacts
from core.models.sources import is_stored
from orchestrator.blocks import blocks_of, lines_left_out
from orchestrator.estimate import forecast
from orchestrator.estimate.block_costs import MICRO_BATCH_TOKENS
from orchestrator.estimate.devices import GPUS, cpus_per_worker, gpus_per_worker, usable_bytes
from orchestrator.estimate.keep_policy import kept_bytes
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.estimate.plans import Machine, plan_lines
from orchestrator.estimate.streaming import untrained_bytes
from orchestrator.inputs.models import ResolvedModel
from orchestrator.plan.cell import Cell
from orchestrator.plan.changed_settings import StoredStages, changes
from orchestrator.plan.search import most_further
from orchestrator.plan.stages import Stage
from orchestrator.plan.training_kinds import trained_rounds
from orchestrator.plan.trials import Trial
from orchestrator.planning import standing
from orchestrator.preparation import Sweep, Texts
from orchestrator.results.names import CellName
from orchestrator.results.numbers import clock

TIMES_NOTE = "  (rough times by nominal rates; hours under `here` are timed on this machine)"
"""The times of trials are nominal. On a busy machine timed hours differ from them by factors."""
LARGE_CARDS = ("A100", "H100")


def describe_plan(sweep: Sweep, texts: Texts, trials: list[Trial], num_slots: int) -> str:
    """Return cells, what is done and why the rest is not, trials, memory and time."""
    at_once = max(1, min(num_slots, len(trials))) * sweep.resources.num_workers
    plan, to_run = sweep.plan, {cell.id for cell in sweep.cells}
    lines = [
        f"{len(plan.cells)} cells, {len(plan.cells) - len(to_run)} already done; "
        f"{len(sweep.needed)} stages to run of {len(plan.stages)}"
    ]
    lines += [damage(sweep, stage) for stage in sweep.found.damaged]
    lines += search_lines(sweep)
    stored = StoredStages(sweep.found.manifests)
    block = -1
    for cell in plan.cells.values():
        if cell.block != block:
            block = cell.block
            lines += with_settings(plan.axes[block])
        state = why(sweep, cell, stored) if cell.id in to_run else found(sweep, cell)
        lines.append(f"  {CellName.of_cell(cell).full:<52} {state}")
    lines += lines_left_out(sweep.config)
    lines.append(f"{len(trials)} trials")
    if plan.task_stages():
        lines.append(f"{len(sweep.missing_tasks())} task evaluations")
    for trial in trials:
        seconds = sum(texts.seconds[stage.id] for stage in trial.stages)
        lines.append(
            f"  {trial.model}: {len(trial.cells)} cells, "
            f"{len(trial.stages)} stages, roughly {clock(seconds)}"
        )
    lines += axis_lines(sweep, texts.seconds)
    lines += [TIMES_NOTE] if trials else []
    for model in sweep.models:
        lines += ["", *describe_model(sweep, texts, model, at_once)]
    return "\n".join(lines)


def with_settings(axes: Mapping[str, Any]) -> list[str]:
    """Return a heading of further cells: their settings, of those in which blocks differ."""
    told = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in axes.items())
    if not told:
        return []
    return textwrap.wrap(f"with {told}:", 79, subsequent_indent="    ")


def axis_lines(sweep: Sweep, seconds: Mapping[str, float]) -> list[str]:
    """Return the cost of each value of each axis: its cells, and the time that only they take."""
    plan, lines = sweep.plan, []
    axes = {
        cell.id: [plan.axes_of(cell, block) for block in plan.asked_by[cell.id]]
        for cell in sweep.cells
    }
    for name in dict.fromkeys(name for block in plan.axes for name in block):
        cells: Counter[Any] = Counter()
        users: dict[str, set[Any]] = {}
        for cell in sweep.cells:
            values = {found.get(name) for found in axes[cell.id]}
            cells.update(values)
            for stage in {*cell.all_stages()} & sweep.needed:
                users.setdefault(stage, set()).update(values)
        for value in dict.fromkeys(block[name] for block in plan.axes):
            own = sum(seconds[stage] for stage, found in users.items() if found == {value})
            told = f"{name.replace('_', '-')} {value}"
            lines.append(f"  {told}: {cells[value]} cells, roughly {clock(own)} for them alone")
    return lines


def search_lines(sweep: Sweep) -> list[str]:
    """Return how many cells a search may add; the rows that are there bound it."""
    if not any(sweep.plan.within):
        return []
    count = most_further(sweep.plan, standing(sweep.config, sweep.plan, sweep.found))
    return [f"the search (--within) adds at most {count} cells, whose time is not counted here"]


def damage(sweep: Sweep, stage: str) -> str:
    """Return what is wrong with a stored stage, and what a run will do about it."""
    again = " and computed again" if stage in sweep.needed else ""
    fate = sweep.store.stages.at(stage).fate + again
    return f"  stages/{stage} is damaged ({sweep.found.damaged[stage]}): to be {fate}"


def describe_model(sweep: Sweep, texts: Texts, model: ResolvedModel, at_once: int) -> list[str]:
    """Return the memory, time and disk of one model; `at_once` workers run at a time."""
    resources, trains = sweep.resources, sweep.trains
    cost = sweep.costs[model.inputs.name]
    stages = [s for s in sweep.plan.stages.values() if s.model == model.inputs.name]
    lines = [
        f"{model.inputs.name}: {model.facts.num_parameters:,} parameters, {model.inputs.dtype}"
        + (f", trained in {model.inputs.training_dtype}" if trains else "")
    ]
    lines += matrix_lines(model.facts, any(one.prune.routers for one in blocks_of(sweep.config)))
    workers = resources.num_workers
    lines += forecast.memory_lines(cost, trains, workers, sweep.micro_batch_tokens)
    for text, count in texts.about.get(model.inputs.name, {}).items():
        lines.append(f"  each evaluation reads {count} tokens of {text.name}")
    to_run = [stage for stage in stages if stage.id in sweep.needed]
    lines += [f"  {line}" for line in step_lines(to_run, workers)]
    if to_run:  # Timing this machine takes seconds.
        lines += work_of_model(sweep, texts, model, to_run, at_once)
    if not is_stored(model.source):
        lines.append("  its weights are not here: all of this follows from its config")
    kept = kept_bytes(stages, sweep.costs, sweep.dropped)
    return [*lines, f"  kept models: {kept / 2**30:.2f} GiB of disk"]


def step_lines(stages: Sequence[Stage], workers: int) -> list[str]:
    """Return what to do where an optimizer step has fewer windows than workers share it."""
    rounds = [each for stage in stages for each in trained_rounds(stage.work) if each.learns]
    least = min((each.step_windows for each in rounds), default=workers)
    if least >= workers:
        return []
    tokens = workers * max(each.text.seq_len for each in rounds)
    remedy = f"--finetune.batch-tokens {tokens} gives each worker one, and changes numbers"
    if min(each.num_windows for each in rounds) < workers:
        remedy = f"only rounds of {tokens} tokens or more have one for each worker"
    count = f"{least} window{'s' * (least > 1)}"
    return [
        f"a step of training has {count} for {workers} workers ({workers - least} idle);",
        remedy,
    ]


def matrix_lines(facts: ModelFacts, routers: bool = False) -> list[str]:
    """Return the numbers of matrices by kind, of those that are pruned and those that are not.

    With `routers`, routers and gates are pruned too, where this is possible.
    """
    facts = facts.pruned(routers)
    pruned = Counter(
        one.name.rpartition(".")[2] + (" of experts" if one.share < 1 else "")
        for one in facts.linears
    )
    told = ", ".join(f"{count} {kind}" for kind, count in pruned.items())
    lines = [f"  prunes {pruned.total()} matrices: {told}"]
    left = Counter((name.rpartition(".")[2], why) for name, why in facts.left_out.items())
    if left:
        told = ", ".join(f"{count} {kind} ({why})" for (kind, why), count in left.items())
        lines.append(f"  leaves out {left.total()} matrices: {told}")
    small = sum(count for (_, why), count in left.items() if why in (ROUTER, BY_HEAD))
    if routers and small:
        lines.append(f"  --prune.routers cannot prune {small} of these: no pass calls their module")
    return lines


def work_of_model(
    sweep: Sweep, texts: Texts, model: ResolvedModel, to_run: list[Stage], at_once: int
) -> list[str]:
    """Return the operations, time and price of the stages to run of one model."""
    resources, cost = sweep.resources, sweep.costs[model.inputs.name]
    workers, trains = resources.num_workers, sweep.trains
    timed = forecast.on_this_machine(model, cost, cpus_per_worker(resources))
    costs = {} if timed is None else {"here": timed}
    costs |= {name: forecast.on_gpu(cost, name, workers) for name in GPUS}
    price = resources.price_per_gpu_hour
    lines = forecast.work_lines(costs, to_run, texts.num_tokens, trains, price)
    machines = [*here(sweep, timed, at_once), *cards(sweep, cost)]
    if any(untrained_bytes(cost, 1, m.micro_batch_tokens) > m.usable_bytes for m in machines):
        lines += plan_lines(machines, to_run, texts.num_tokens)
    return lines


def here(sweep: Sweep, timed: ModelCost | None, at_once: int) -> list[Machine]:
    """Return the workers that this machine would run; none without the device."""
    if timed is None:
        return []
    resources = sweep.resources
    usable = usable_bytes(torch.device(sweep.device), at_once, gpus_per_worker(resources))
    name, count = "this machine", resources.num_workers
    return [Machine(name, timed, count, usable, sweep.micro_batch_tokens)]


def cards(sweep: Sweep, cost: ModelCost) -> list[Machine]:
    """Return one large card, and eight."""
    tokens = sweep.resources.micro_batch_tokens or MICRO_BATCH_TOKENS["cuda"]
    return [
        Machine(f"{count} x {name} 80 GB", on_card, count, GPUS[name].usable_bytes, tokens)
        for name in LARGE_CARDS
        for on_card in [forecast.on_gpu(cost, name)]
        for count in (1, 8)
    ]


def found(sweep: Sweep, cell: Cell) -> str:
    """Return what became of a cell that is not to run again."""
    row = sweep.found.rows[cell.row_keys()[0]]
    return row["status"].replace("_", " ")


def why(sweep: Sweep, cell: Cell, stored: StoredStages) -> str:
    """Return why a cell is not done yet, in a few words."""
    manifests, rows = sweep.found.manifests, map(sweep.found.rows.get, cell.row_keys())
    present: list[dict[str, Any]] = [row for row in rows if row is not None]
    if present and present[0]["status"] == "done":
        return "a stage of it is gone; to run again"
    if present:
        return f"{present[0]['status']} before; to run again"
    missing = [stage for stage in cell.all_stages()[1:] if stage in sweep.needed]
    dropped = [stage for stage in missing if stage in manifests]
    text = f"{len(missing)} stages to run"
    if dropped:
        text += f", {len(dropped)} of them again (weights not kept)"
    changed = changes(sweep.plan, cell, set(missing) - set(dropped), stored)
    return f"{text}: {', '.join(changed)}" if changed else text
