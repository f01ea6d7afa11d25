"""The sweep's settings: what the grid is, where it runs, where results go.

Three classes, one question each: what changes the numbers (`GridConfig` with core's own configs),
where it runs (`ResourceConfig`), where results go (`OutputConfig`). tyro gives each field a flag.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import tyro

from core.checks import require, require_known, require_unique
from core.config import CalibrationConfig, DType, EvalConfig, FinetuneConfig, PruneConfig
from core.methods import METHODS, needs_calibration
from core.schedule import Schedule, scheduled_path, structured_path, unstructured_path
from core.targets import Target
from core.texts.protocols import PROTOCOLS, ProtocolName

T = TypeVar("T")
Unprefixed = Annotated[T, tyro.conf.arg(name="")]
"""A group whose flags carry no prefix."""

Keep = Literal["none", "final", "all"]
Tracker = Literal["wandb", "mlflow"]
REGIMES = ("oneshot", "finetune", "iterative")
DEFAULT_ROUNDS = 5
"""Of a linear or cubic schedule."""


@dataclass(frozen=True)
class GridConfig:
    """The grid: every combination is a cell."""

    models: tuple[str, ...] = ("embedded",)
    """Local directories, hub names (NAME or NAME@REVISION), or `embedded`."""
    methods: tuple[str, ...] = ("magnitude", "wanda", "sparsegpt")
    """Pruning methods."""
    regimes: tuple[str, ...] = REGIMES
    """`oneshot` prunes; `finetune` prunes once, then trains; `iterative` alternates."""
    sparsities: tuple[float, ...] = (0.3, 0.5, 0.7, 0.8, 0.9)
    """Fractions of zeros wanted in every pruned matrix."""
    mask_structures: tuple[str, ...] = ()
    """N:M structures besides the sparsities: of every M inputs N survive, for example 2:4."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of calibration sampling and data order; one curve with a band over all of them."""
    schedule: Schedule = "grid"
    """Path of iterative branches: the sweep's own sparsities, or linear or cubic rounds."""
    num_rounds: int | None = None
    """Rounds of a linear or cubic schedule; 5 by default."""
    protocol: ProtocolName = "sparsegpt"
    """Whose windows, stride and reading of texts: those of the SparseGPT, Wanda or ALPS code or of
    Prune and Tune (see core/texts/protocols.py); explicit flags win."""
    dtype: DType = "auto"
    """Dtype of loading, calibration and evaluation; by default the one the weights come in."""

    def __post_init__(self) -> None:
        for flag in ("models", "methods", "regimes", "seeds"):
            require_unique(flag, getattr(self, flag))
        if self.sparsities or not self.mask_structures:
            require_unique("sparsities", [round(s, 6) for s in self.sparsities])
        if self.mask_structures:
            require_unique("mask-structures", self.mask_structures)
        for method in self.methods:
            require_known("methods", method, METHODS)
        for regime in self.regimes:
            require_known("regimes", regime, REGIMES)
        for seed in self.seeds:
            require(seed >= 0, "seeds", seed, "use 0 or a positive whole number")
        require_known("protocol", self.protocol, PROTOCOLS)
        assert self.targets() is not None
        if self.schedule == "grid":
            require(
                self.num_rounds is None,
                "num-rounds",
                self.num_rounds,
                "only --schedule linear or cubic has rounds of its own",
            )
        elif self.num_rounds is not None:
            require(self.num_rounds > 0, "num-rounds", self.num_rounds, "use 1 or more")

    def targets(self) -> list[Target]:
        """Sparsities in rising order, then mask structures; no product of the two."""
        unstructured = [Target(round(s, 6)) for s in sorted(self.sparsities)]
        return unstructured + [Target.structured(text) for text in self.mask_structures]

    def path(self, regime: str, target: Target) -> list[Target]:
        """The targets that a branch passes through on the way to its last."""
        if regime != "iterative":
            return [target]
        if target.structure is not None:
            return structured_path(target.structure)
        if self.schedule == "grid":
            return unstructured_path(target.sparsity, [round(s, 6) for s in self.sparsities])
        return scheduled_path(target.sparsity, self.num_rounds or DEFAULT_ROUNDS, self.schedule)

    def most_rounds(self) -> int:
        """Rounds of training on the longest branch; 0 where no regime trains."""
        trained = [regime for regime in self.regimes if regime != "oneshot"]
        paths = [self.path(regime, target) for regime in trained for target in self.targets()]
        return max(map(len, paths), default=0)

    @property
    def trains(self) -> bool:
        """Whether any regime trains."""
        return any(regime != "oneshot" for regime in self.regimes)


@dataclass(frozen=True)
class ResourceConfig:
    """Where a trial runs; nothing here changes numbers beyond floating-point order."""

    num_workers: int = 1
    """Train workers of each trial; the model is sharded over them with FSDP2."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: int | None = None
    """CPU cores, and torch threads, of a worker; by default the machine's cores shared out."""
    gpus_per_worker: float | None = None
    """GPUs of a worker, 1 by default; a fraction lets small models share a card (one worker)."""
    max_concurrent_trials: int | None = None
    """Trials at a time; by default as many as the resources hold."""
    micro_batch_tokens: int | None = None
    """Tokens a forward pass; 2,048 on CPU and 16,384 on GPU by default."""
    price_per_gpu_hour: float | None = None
    """With --dry-run: what an hour of one GPU costs you, in any currency."""
    activation_checkpointing: bool = False
    """Train in less memory: run each block again in the backward pass, about a third more work."""
    cpu_offload: bool = False
    """Keep weights, gradients and moments in host memory; a block is on the GPU while it runs."""
    timeout_seconds: float = 1800.0
    """Longest wait of workers for a place in the cluster, for each other, for a report to be taken
    and for a sign of life; then an error that says what to do."""
    stop_perplexity: float | None = None
    """Give up on a branch once its perplexity is above this on any text: what starts from such
    weights, training included, is not run and its cells become `stopped`."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "cpus_per_worker", "max_concurrent_trials"):
            value = getattr(self, name)
            require(value is None or value > 0, name.replace("_", "-"), value, "use 1 or more")
        timeout, limit = self.timeout_seconds, self.stop_perplexity
        require(timeout > 0, "timeout-seconds", timeout, "use a positive number of seconds")
        require(limit is None or limit > 1, "stop-perplexity", limit, "use a number above 1")
        require(
            self.micro_batch_tokens is None or self.micro_batch_tokens > 0,
            "micro-batch-tokens",
            self.micro_batch_tokens,
            "use a positive number of tokens",
        )
        price = self.price_per_gpu_hour
        require(price is None or price > 0, "price-per-gpu-hour", price, "use a positive number")
        remedy = "has no effect without --use-gpu"
        require(self.use_gpu or not self.cpu_offload, "cpu-offload", self.cpu_offload, remedy)
        if self.gpus_per_worker is not None:
            gpus = self.gpus_per_worker
            require(self.use_gpu, "gpus-per-worker", gpus, "needs --use-gpu")
            require(gpus > 0, "gpus-per-worker", gpus, "use a positive number")
            require(
                self.num_workers == 1 or gpus >= 1,
                "gpus-per-worker",
                gpus,
                "several workers cannot share a card; use --num-workers 1 or whole GPUs",
            )


@dataclass(frozen=True)
class OutputConfig:
    """Where results go, and what to do about results that are there."""

    out_dir: str = "results/sweep_opt"
    """Local directory or URI (s3://, gs://) of rows, stages, results.parquet and curves.html."""
    keep: Keep | None = None
    """Pruned models to keep: none, final (of each cell) or all; by default all where they take less
    than 2 GB, else final."""
    dry_run: bool = False
    """Print cells, what is done, trials, and estimated memory and time; then stop."""
    retry_failed: bool = False
    """Run failed cells again, and those that were not run because of them."""
    from_row: str | None = None
    """Run one finished cell again from its recorded settings, by its id or the beginning of it, and
    compare; reads only --out-dir and where to run."""
    checkpoint_seconds: float = 60.0
    """Least time between two checkpoints within a round of training."""
    trackers: tuple[Tracker, ...] = ()
    """Also report finished cells to wandb or mlflow (extras of the same names); TensorBoard's
    files are always written, below OUT_DIR/ray."""
    published: str | None = None
    """CSV of perplexities to compare with, with the columns of
    orchestrator/results/assets/published.csv and before its values. They are drawn as hollow
    markers where model, text and windows are the same."""

    def __post_init__(self) -> None:
        require(bool(self.out_dir.strip()), "out-dir", "(empty)", "name a directory or URI")
        require(
            self.checkpoint_seconds >= 0,
            "checkpoint-seconds",
            self.checkpoint_seconds,
            "use 0 or more seconds",
        )
        if self.trackers:
            require_unique("trackers", self.trackers)


@dataclass(frozen=True)
class SweepConfig:
    """Everything a sweep is run with; written beside its results."""

    grid: Unprefixed[GridConfig] = field(default_factory=GridConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    resources: Unprefixed[ResourceConfig] = field(default_factory=ResourceConfig)
    output: Unprefixed[OutputConfig] = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        structures = self.grid.mask_structures
        if structures:
            remedy = f"cannot be had with --mask-structures {structures[0]}; use uniform"
            owl = self.prune.allocation != "uniform"
            require(not owl, "prune.allocation", self.prune.allocation, remedy)
        if self.prune.weight_bits is not None:
            remedy = "training would move weights off their grid; use --regimes oneshot"
            require(not self.grid.trains, "prune.weight-bits", self.prune.weight_bits, remedy)

        price = self.resources.price_per_gpu_hour
        planned = price is None or self.output.dry_run
        require(planned, "price-per-gpu-hour", price, "only --dry-run prints it; add that flag")
        if self.eval.tasks:
            remedy = "tasks start from kept weights; use --keep final"
            require(self.output.keep != "none", "keep", self.output.keep, remedy)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as recorded beside results."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SweepConfig:
        """The inverse of `to_dict`, also after JSON; a setting that is not there gets its default.

        Raises:
            ValueError: it holds a setting that does not exist any more.
        """
        groups = {}
        for group in dataclasses.fields(cls):
            recorded = values.get(group.name, {})
            default = group.default_factory()  # pyright: ignore
            known = {field.name for field in dataclasses.fields(default)}
            for name in recorded:
                remedy = "was recorded by another version, which knew this setting"
                require(name in known, f"{group.name}.{name}", recorded[name], remedy)
            lists = {k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items()}
            groups[group.name] = dataclasses.replace(default, **lists)
        return cls(**groups)


def require_read(config: SweepConfig, explicit: set[str]) -> None:
    """Refuses explicit flags that no cell of the grid reads.

    Args:
        config: the resolved settings.
        explicit: flags given on the command line, without dashes, e.g. `calibration.text`.
    """
    grid = config.grid
    methods = [METHODS[name] for name in grid.methods]
    calibrated = any(needs_calibration(name, config.prune) for name in grid.methods)
    iterative = "iterative" in grid.regimes
    for flag in sorted(explicit):
        section, _, name = flag.partition(".")
        if section == "calibration":
            require(calibrated, flag, "has no effect", "no chosen method reads calibration text")
        elif section in ("finetune", "checkpoint-seconds"):
            require(grid.trains, flag, "has no effect", "no chosen regime trains")
        elif section == "prune":
            reads = any(name.replace("-", "_") in method.fields_read for method in methods)
            require(reads, flag, "has no effect", "no chosen method reads it")
        elif flag == "activation-checkpointing":
            require(grid.trains, flag, "has no effect", "no chosen regime trains")
            remedy = "--finetune.objective reconstruct holds one block at a time anyway"
            require(config.finetune.objective == "next_token", flag, "has no effect", remedy)
        elif flag in ("schedule", "num-rounds"):
            require(iterative, flag, "has no effect", "only the iterative regime has rounds")
        elif flag == "stop-perplexity":
            remedy = "no chosen regime goes on from a pruned model"
            require(grid.trains, flag, "has no effect", remedy)
        elif flag == "seeds":
            require(
                calibrated or grid.trains, flag, "has no effect", "no chosen cell draws anything"
            )
