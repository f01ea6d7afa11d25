"""run_sweep: plan, run what is missing, collect. Running it again is how to resume."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from core.config import require
from core.zero_shot import require_tasks
from orchestrator import versions
from orchestrator.cell import Cell, identity
from orchestrator.config import SweepConfig
from orchestrator.cost import ModelCost, stage_seconds
from orchestrator.forecast import count_eval_tokens
from orchestrator.inputs import ResolvedModel, resolve_inputs
from orchestrator.job import Job
from orchestrator.keep import stages_to_drop
from orchestrator.plan import Plan
from orchestrator.planner import Planner
from orchestrator.published import known_values
from orchestrator.record import describe_cells, write_record
from orchestrator.report import collect, describe_plan
from orchestrator.results import row_key
from orchestrator.store import MARKER, Store
from orchestrator.tasks import run_tasks, wanted_weights
from orchestrator.tokens import missing_tokens, save_tokens
from orchestrator.trackers import callbacks_of, require_usable
from orchestrator.trials import (
    Trial,
    dropped_cells,
    needed_stages,
    pack_trials,
    shared_stages,
    to_run,
    tune_view,
)

logger = logging.getLogger(__name__)

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


def run_sweep(config: SweepConfig) -> int:
    """Runs what is missing of a sweep; returns the exit code.

    Raises:
        ValueError: bad input, before Ray starts and before anything is written. Only what does not
            fit the cluster of RAY_ADDRESS is found once that is joined; no row has changed by then.
    """
    from orchestrator import cluster

    require_usable(config.output.trackers)
    on_cluster = bool(os.environ.get("RAY_ADDRESS"))
    # A dry run may plan for a cluster that is not there yet.
    if not (on_cluster or config.output.dry_run):
        cluster.num_slots(config.resources, cluster.local_resources())
    sweep = prepare(config)
    tokens = read_texts(sweep)
    if config.output.dry_run:
        print(describe_plan(sweep, trials_of(sweep, cluster.planned_slots(config.resources))))
        return 0
    require_writable(sweep.store)
    sweep.store.set_aside_stages(sweep.damaged)
    write_record(sweep)
    if sweep.cells:
        save_tokens(sweep.store, tokens)
        run_missing(sweep)
    else:
        print(f"all {len(sweep.plan.cells)} cells already done")
    failed_tasks = run_tasks(sweep)
    return max(collect(sweep), int(failed_tasks > 0))


def prepare(config: SweepConfig) -> Sweep:
    """Resolves names, plans, and finds out what is done; writes nothing."""
    known_values(config.output.published)
    store = Store(config.output.out_dir)
    require_own_directory(store)
    if config.eval.tasks:
        require_tasks(config.eval.tasks)
    models = resolve_inputs(config)
    plan = Planner(config.grid, config.prune, config.finetune).build(m.inputs for m in models)
    (manifests, damaged), rows = store.check_stages(), store.rows()
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
    if store.is_local and os.path.exists(store.path):
        require(os.path.isdir(store.path), "out-dir", store.root, "is a file; name a directory")
        # A sweep killed in its first moment leaves a half-written marker.
        others = [name for name in os.listdir(store.path) if not name.startswith(MARKER)]
        require(
            not others or store.exists(MARKER),
            "out-dir",
            store.root,
            "holds something else; name a new directory or one of an earlier sweep",
        )


def require_writable(store: Store) -> None:
    """Marks the directory as a sweep's."""
    try:
        if not store.exists(MARKER):
            store.write_bytes(b'{"format": 1}\n', MARKER)
        store.tidy()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"--out-dir {store.root}: cannot be written ({reason})") from None


def trials_of(sweep: Sweep, slots: int) -> list[Trial]:
    """The missing work, packed."""
    return pack_trials(sweep.plan, sweep.cells, sweep.needed, sweep.seconds, slots)


def run_missing(sweep: Sweep) -> None:
    """Starts Ray, runs the trials, and stops a Ray that was started here."""
    from orchestrator import cluster
    from orchestrator.progress import Progress
    from orchestrator.pulse import Pulse

    resources = sweep.config.resources
    cluster.connect()
    try:
        slots = cluster.slots_of_cluster(resources)
        trials = trials_of(sweep, slots)
        for cell in sweep.cells:
            for evaluation in cell.evaluations:
                # Not one that another sweep on this store has written meanwhile.
                if row_key(cell.id, evaluation) in sweep.rows:
                    sweep.store.delete_row(row_key(cell.id, evaluation))
        models = {m.inputs.name: m for m in sweep.models}
        shared = shared_stages(trials)
        jobs = {t.id: make_job(sweep, models[t.model], t, shared).to_dict() for t in trials}
        total = len(sweep.plan.cells)
        print(
            f"{len(sweep.cells)} of {total} cells to run in {len(trials)} trials, "
            f"{min(slots, len(trials))} at a time",
            flush=True,
        )
        costs = cell_costs(sweep)
        progress = Progress({cell.id: cell for cell in sweep.cells}, costs)
        pulse = Pulse(sweep.store, sweep.id, trials, costs)
        errors = cluster.run_trials(
            [tune_view(trial) for trial in trials],
            jobs,
            resources,
            slots,
            f"sweep-{sweep.id}",
            sweep.store.uri("ray"),
            [progress, pulse, *callbacks_of(sweep.config.output.trackers)],
        )
        for error in errors:
            logger.error("a trial ended early: %s", error.strip().splitlines()[-1])
        for stage in shared & sweep.dropped:
            sweep.store.drop_weights(stage)
    finally:
        cluster.ray.shutdown()


def cell_costs(sweep: Sweep) -> dict[str, float]:
    """Estimated seconds that each cell adds, counting a shared stage for its first cell."""
    counted: set[str] = set()
    costs = {}
    for cell in sweep.cells:
        mine = {*cell.all_stages()} & sweep.needed - counted
        counted |= mine
        costs[cell.id] = sum(sweep.seconds[stage] for stage in mine)
    return costs


def make_job(sweep: Sweep, model: ResolvedModel, trial: Trial, shared: set[str]) -> Job:
    """A trial with everything that its workers need; `shared` stages outlive it."""
    from orchestrator import cluster

    config, plan = sweep.config, sweep.plan
    resources = config.resources
    micro_batch = sweep.micro_batch_tokens
    known = {stage.id for stage in trial.stages}
    known |= {stage for cell in trial.cells for stage in cell.all_stages()}
    # What earlier sweeps evaluated on these branches counts for --stop-perplexity.
    known |= {s.id for s in plan.stages.values() if s.kind == "evaluate" and s.parent in known}
    cost = sweep.costs[model.inputs.name]
    environment = versions.environment()
    root = next(s for s in plan.roots() if s.model == trial.model)
    return Job(
        id=trial.id,
        model=trial.model,
        method=trial.method,
        root=root.id,
        stages=trial.stages,
        known=tuple(plan.stages[stage] for stage in sorted(known | {root.id})),
        cells=trial.cells,
        source=dataclasses.asdict(model.source),
        dtype=model.inputs.dtype,
        store_root=sweep.store.uri(),
        drop=tuple(sorted(sweep.dropped - shared)),
        device=sweep.device,
        num_workers=resources.num_workers,
        threads=cluster.cpus_per_worker(resources),
        micro_batch_tokens=micro_batch,
        checkpoint_seconds=config.output.checkpoint_seconds,
        timeout_seconds=resources.timeout_seconds,
        stop_perplexity=resources.stop_perplexity,
        memory_bytes=cost.memory(config.grid.trains, resources.num_workers, micro_batch),
        row_constants={
            "protocol": config.grid.protocol,
            "schedule": config.grid.schedule,
            "budget": config.finetune.budget,
            "num_workers": resources.num_workers,
            "device": sweep.device,
            "config": json.dumps(config.to_dict(), sort_keys=True),
            "sweep_id": sweep.id,
            "in_current_grid": True,
            **environment,
        },
        environment=environment,
        activation_checkpointing=resources.activation_checkpointing,
        cpu_offload=resources.cpu_offload,
    )
