"""A trial whose stages compute nothing: its walk uses the store as a real one does, in no time."""

from collections.abc import Callable

from core.config import FinetuneConfig, PruneConfig
from core.models.sources import ModelSource
from core.ranks import Ranks
from orchestrator.config import GridConfig
from orchestrator.plan.inputs import CalibrationText, EvaluationText, ModelInputs, TrainingText
from orchestrator.plan.job import Job, Limits, Run, Workers
from orchestrator.plan.planner import Planner
from orchestrator.plan.stages import Stage
from orchestrator.store.store import Store
from orchestrator.trial.walk import Walk

MODEL = ModelInputs(
    name="m",
    identity="m",
    dtype="float32",
    training_dtype="float32",
    calibration=CalibrationText("c", "c", 8, 32, "documents"),
    finetune=TrainingText("t", "t", 32),
    finetune_tokens=1024,
    batch_tokens=64,
    evaluations=(EvaluationText("e", "e", 32, 32),),
)


def job_of(root, sparsities=(0.5, 0.7), **grid):
    """Return one trial over a grid."""
    config = GridConfig(models=("m",), sparsities=sparsities, **grid)
    plan = Planner(config, PruneConfig(), FinetuneConfig()).build([MODEL])
    (dense,) = plan.roots()
    stages = tuple(s for s in plan.walk(dense.id) if s.parent is not None)
    walked = {stage for cell in plan.cells.values() for stage in cell.all_stages()}
    return Job(
        id="trial",
        source=ModelSource("m", "m", None, "m"),
        max_seq_len=32,
        root=dense,
        stages=tuple(stage for stage in stages if stage.id in walked),
        known=(dense, *stages),
        cells=tuple(plan.cells.values()),
        store_root=str(root),
        drop=frozenset(),
        workers=Workers("cpu", 1, 1, 32, 0.0),
        limits=Limits(60.0, 60.0, None),
        run=Run("sweep", ("{}",), "sources"),
    )


class StandIn(Walk):
    """A walk whose stages call `compute(stage)` and publish one number."""

    compute: Callable[[Stage], None]

    def run_stage(self, stage):
        self.compute(stage)
        space = self.space
        if space.ranks.rank > 0:
            return space.ranks.barrier()
        metrics = {"seconds": 0.0, "perplexity": 1.0, "num_tokens": 1, "dtype": "float32"}
        with space.store.scratch.directory() as directory:
            if stage.work.stores_weights:
                (directory / "model.safetensors").write_text(stage.id)
            space.store.stages.at(stage.id).publish(directory, space.record(stage, metrics))
        space.ranks.barrier()


def walk(job, compute, store=None, ranks=None):
    """Walk a trial; return what it reports."""
    reported = []
    store = store or Store(job.store_root)
    walking = StandIn(job, store, ranks or Ranks.current(), reported.append)
    walking.compute = compute
    walking.run()
    return reported
