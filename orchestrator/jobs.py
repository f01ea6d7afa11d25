"""Jobs: trials and task stages of a sweep with everything that their workers need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import replace

from orchestrator.estimate.devices import cpus_per_worker, gpus_per_worker
from orchestrator.estimate.memory import memory
from orchestrator.estimate.seconds import block_seconds
from orchestrator.estimate.streaming import streamed_bytes, untrained_bytes
from orchestrator.inputs.tokens import tokens_id
from orchestrator.plan.cell import Cell
from orchestrator.plan.job import Job, Limits, Run, Workers
from orchestrator.plan.stages import Stage
from orchestrator.plan.trials import Trial
from orchestrator.preparation import Sweep


def trial_job(sweep: Sweep, trial: Trial, shared: Set[str], awaited: Set[str] = frozenset()) -> Job:
    """Return the job of a trial.

    Args:
        sweep: the sweep.
        trial: the trial.
        shared: stages whose weights outlive it.
        awaited: token files that the command makes while trials run.
    """
    job = make_job(sweep, trial.id, trial.stages, trial.cells)
    # Only what this trial may come to hold: the whole sweep's list would be most of the job.
    reached = {*job.by_id, *(stage.parent for stage in job.stages)}
    unwanted = frozenset(s for s in reached if s in sweep.dropped)
    mine = awaited & {*training_files(trial.stages, job.source.identity)}
    kept = {"drop": unwanted - shared, "outlive": unwanted & shared}
    return replace(job, **kept, awaited_tokens=mine)


def training_files(stages: Iterable[Stage], identity: str) -> Iterator[str]:
    """Yield the names of all token files that training stages of a model may read."""
    for draw in filter(None, (stage.work.training_draw() for stage in stages)):
        yield tokens_id(draw, identity)
        yield tokens_id(draw.text, identity)


def task_job(sweep: Sweep, stage: Stage) -> Job:
    """Return the job of one task stage, whose model is never streamed: tasks need all of it."""
    job = make_job(sweep, stage.id, (stage,), ())
    return replace(job, workers=replace(job.workers, untrained_bytes=0.0))


def make_job(sweep: Sweep, name: str, stages: tuple[Stage, ...], cells: tuple[Cell, ...]) -> Job:
    """Return a job of stages of one model that drops no weights."""
    model = sweep.model(stages[0].model if stages else cells[0].model)
    root = sweep.plan.root_of(model.inputs.name)
    return Job(
        id=name,
        source=model.source,
        max_seq_len=model.facts.max_seq_len,
        root=root,
        stages=stages,
        known=known_stages(sweep, [root, *stages], cells),
        cells=cells,
        store_root=sweep.store.files.uri(),
        drop=frozenset(),
        workers=workers_of(sweep, model.inputs.name),
        limits=Limits(
            checkpoint_seconds=sweep.config.output.checkpoint_seconds,
            timeout_seconds=sweep.resources.timeout_seconds,
            stop_perplexity=sweep.resources.stop_perplexity,
            block_seconds=block_seconds(sweep.costs[model.inputs.name], stages),
        ),
        run=Run(
            sweep_id=sweep.id,
            configs=sweep.settings,
            sources=sweep.sources,
            attempt=sweep.attempt,
        ),
        texts=model.texts,
    )


def workers_of(sweep: Sweep, model: str) -> Workers:
    """Return the worker group of a model's trials."""
    resources, micro_batch = sweep.resources, sweep.micro_batch_tokens
    trains, cost = sweep.trains, sweep.costs[model]
    return Workers(
        device=sweep.device,
        num_workers=resources.num_workers,
        threads=cpus_per_worker(resources),
        micro_batch_tokens=micro_batch,
        memory_bytes=memory(cost, trains, resources.num_workers, micro_batch),
        untrained_bytes=untrained_bytes(cost, resources.num_workers, micro_batch),
        streamed_bytes=streamed_bytes(cost, resources.num_workers, micro_batch),
        gpus=gpus_per_worker(resources),
        activation_checkpointing=resources.activation_checkpointing,
        cpu_offload=resources.cpu_offload,
    )


def known_stages(sweep: Sweep, stages: Iterable[Stage], cells: Iterable[Cell]) -> tuple[Stage, ...]:
    """Return stages, all that cells are made of, and what evaluates any of them."""
    plan = sweep.plan
    known = {stage.id for stage in stages} | {s for cell in cells for s in cell.all_stages()}
    # What earlier sweeps evaluated on these branches counts for --stop-perplexity.
    known |= {look.id for stage in known for look in plan.looks_at(stage)}
    return tuple(plan.stages[stage] for stage in sorted(known))
