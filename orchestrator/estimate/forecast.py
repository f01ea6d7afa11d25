"""The forecast of a dry run: memory, operations, hours, price and disk of a sweep.

It follows from models' configs, from the tokens of evaluated texts, and from two blocks of random
weights timed on this machine; no stage runs. Hours are of all stages to run, one after another: on
this machine as measured now, and on as many workers as the sweep has for a trial, each with one GPU
of four kinds by their data sheets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch

from orchestrator.estimate import memory
from orchestrator.estimate.devices import GIB, GPUS
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.estimate.rates import measured_rates, product_rates
from orchestrator.estimate.seconds import seconds as seconds_of
from orchestrator.inputs.models import ResolvedModel
from orchestrator.inputs.token_files import num_stored_tokens
from orchestrator.inputs.tokens import tokens_id
from orchestrator.plan.inputs import EvaluationText
from orchestrator.plan.kinds import KINDS
from orchestrator.plan.stages import Stage
from orchestrator.store.store import Store

GPU_MICRO_BATCH_TOKENS = 2_048
"""Tokens a forward pass for the smallest number of workers: fewer fit a large model."""
LARGEST_TIMED = 2_000_000_000
"""Most parameters of a model of which two blocks are timed."""


def on_this_machine(model: ResolvedModel, cost: ModelCost, threads: int) -> ModelCost | None:
    """Return the counts with rates measured now; None without the device.

    A large model is not built for it: the product with its widest matrix is timed alone.

    Args:
        model: the model to time.
        cost: its counts.
        threads: torch threads of a worker; torch's own count ignores the limits of a container.
    """
    device = torch.device(cost.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        return None
    dtypes = model.inputs.dtype, model.inputs.training_dtype
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if model.facts.num_parameters > LARGEST_TIMED:
            rates = product_rates(model.facts, {*dtypes, "float32"}, device)
        else:
            rates = measured_rates(model.source, model.facts, *dtypes, device)
    finally:
        torch.set_num_threads(before)
    return dataclasses.replace(cost, rates=rates)


def on_gpu(cost: ModelCost, name: str, num_workers: int = 1) -> ModelCost:
    """Return the counts with the rates of some cards of a kind; training is in bf16."""
    inputs = dataclasses.replace(cost.inputs, training_dtype="bfloat16")
    return dataclasses.replace(
        cost, inputs=inputs, device="cuda", rates=GPUS[name].rates, num_workers=num_workers
    )


def count_text_tokens(
    stages: Iterable[Stage],
    models: Iterable[ResolvedModel],
    tokens: dict[str, torch.Tensor],
    store: Store,
) -> dict[str, int]:
    """Return the tokens of the texts that evaluations read, by stage id.

    Args:
        stages: stages to run.
        models: all models of the sweep.
        tokens: texts tokenised just now, by the name of their file.
        store: where all others are.
    """
    identities = {model.inputs.name: model.source.identity for model in models}
    found = {}
    for stage in stages:
        for reading in stage.work.readings():
            if isinstance(reading, EvaluationText):
                name = tokens_id(reading, identities[stage.model])
                held = tokens.get(name)
                found[stage.id] = num_stored_tokens(store, name) if held is None else held.numel()
    return found


def memory_lines(cost: ModelCost, trains: bool, num_workers: int, micro_batch: int) -> list[str]:
    """Return the GiB of a worker in each phase, part by part."""
    phases = memory.phases(cost, trains, num_workers, micro_batch)
    for found in phases.values():
        # One column for shards and what is whole for now, so that lines fit a terminal.
        found["weights"] += found.pop("gathered")
    parts = [p for p in dict.fromkeys(n for f in phases.values() for n in f) if p != "base"]
    widths = {part: max(8, len(part) + 1) for part in parts}
    head = "".join(f"{part:>{widths[part]}}" for part in parts)
    lines = [f"  GiB a worker{head}  in all"]
    for phase, found in phases.items():
        row = "".join(
            f"{found[part] / GIB:>{width}.2f}" if part in found else " " * width
            for part, width in widths.items()
        )
        lines.append(f"  {phase:<12}{row}{sum(found.values()) / GIB:>8.2f}")
    if cost.cpu_offload and trains:
        host = memory.host_memory(cost, num_workers, micro_batch) / GIB
        lines.append(f"  of host memory beside it, for shards that stay there: {host:.2f}")
    return lines


def work_lines(
    costs: dict[str, ModelCost],
    stages: list[Stage],
    eval_tokens: dict[str, int],
    trains: bool,
    price: float | None,
) -> list[str]:
    """Return operations and hours of each kind of stage by device, workers and price.

    Args:
        costs: counts by the name of a column; `here` where this machine was timed.
        stages: stages of one model, to run.
        eval_tokens: tokens of evaluated texts by stage.
        trains: True if any stage trains.
        price: price of a GPU hour, in any currency.
    """
    lines = [f"  {'':<9}{'stages':>7}{'PFLOP':>9}" + "".join(f"{n:>10}" for n in costs)]
    totals = dict.fromkeys(costs, 0.0)
    any_cost = next(iter(costs.values()))
    for kind, work in KINDS.items():
        mine = [stage for stage in stages if isinstance(stage.work, work)]
        if not mine:
            continue
        tokens = [eval_tokens.get(stage.id, 0) for stage in mine]
        counted = [s.work.operations(any_cost, count) for s, count in zip(mine, tokens)]
        operations = sum(sum(each.values()) for each in counted)
        row = f"  {kind:<9}{len(mine):>7}{operations / 1e15:>9.3g}"
        for name, cost in costs.items():
            seconds = sum(seconds_of(cost, stage, count) for stage, count in zip(mine, tokens))
            totals[name] += seconds
            row += f"{hours(seconds):>10}"
        lines.append(row)
    ranks = max(cost.num_workers for cost in costs.values())
    of = "hours" if ranks == 1 else f"hours, {ranks} of each GPU"
    lines.append(f"  {of:<25}" + "".join(f"{hours(totals[name]):>10}" for name in costs))
    fits = {name: workers(cost, name, trains) for name, cost in costs.items()}
    lines.append(f"  {'fewest workers':<25}" + "".join(f"{fits[name]:>10}" for name in costs))
    note = f"  (workers with --micro-batch-tokens {GPU_MICRO_BATCH_TOKENS})"
    if price is not None:
        paid = {n: totals[n] / 3600 * price * cost.num_workers for n, cost in costs.items()}
        row = (f"{paid[n]:,.2f}" if n in GPUS else "" for n in costs)
        lines.append(f"  {f'price at {price:g} an hour':<25}" + "".join(f"{p:>10}" for p in row))
    return [*lines, note]


def workers(cost: ModelCost, name: str, trains: bool) -> str:
    """Return the smallest number of workers of a card that hold a trial."""
    if name not in GPUS:
        return ""
    usable = GPUS[name].usable_bytes
    count = memory.smallest_num_workers(cost, trains, GPU_MICRO_BATCH_TOKENS, usable)
    return "none fits" if count is None else str(count)


def hours(seconds: float) -> str:
    """Return hours with two digits after the point, or three if there are few."""
    return f"{seconds / 3600:,.2f} h" if seconds >= 360 else f"{seconds / 3600:.3f} h"
