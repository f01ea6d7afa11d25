"""Settings of a sweep: the grid, the place of its work, the place of its results.

Each class answers one question: what changes the numbers (`GridConfig` with core's own configs),
where it runs (`ResourceConfig`, in its own file), where results go (`OutputConfig`). Each field
is a flag, and its docstring is the help of that flag. No library that takes long to import may be
imported here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import tyro

from core.checks import require, require_known, require_unique, require_used
from core.config import CalibrationConfig, DType, EvalConfig, FinetuneConfig, PruneConfig
from core.joint_config import DENSE, JointConfig, require_joint
from core.methods import EVERY_METHOD, JOINT_METHODS
from core.schedule import Schedule, scheduled_path, structured_path, unstructured_path
from core.targets import MaskStructure, Target
from core.texts.protocols import PROTOCOLS, ProtocolName
from core.typed_values import give_types_
from orchestrator.help import AXES
from orchestrator.resource_config import ResourceConfig

T = TypeVar("T")
Unprefixed = Annotated[T, tyro.conf.arg(name="")]
"""A group whose flags carry no prefix."""
Axes = Annotated[T, AXES]
"""A setting, or a group of them, whose flags take several values: each makes cells of its own."""

Keep = Literal["none", "final", "all"]
Tracker = Literal["wandb", "mlflow"]
PRUNING_REGIMES = ("oneshot", "finetune", "iterative")
JOINT = "joint"
"""The regime of methods that find their masks by training."""
REGIMES = (*PRUNING_REGIMES, JOINT)
DEFAULT_ROUNDS = 5
"""Rounds of a linear or cubic schedule if no number is given."""


@dataclass(frozen=True)
class GridConfig:
    """The grid: each combination of these values is a cell."""

    models: tuple[str, ...] = ("embedded",)
    """Models: `embedded` (a small OPT that comes with the project), local directories, or names on
    the Hugging Face hub (NAME or NAME@REVISION). Most causal types can be pruned; `--dry-run` tells
    for a model what would be pruned, or why it is refused."""
    methods: tuple[str, ...] = ("magnitude", "wanda", "sparsegpt")
    """Pruning methods by name."""
    regimes: tuple[str, ...] = PRUNING_REGIMES
    """`oneshot` prunes, `finetune` prunes once and then trains, `iterative` prunes and trains by
    turns, a little more each time. `joint` is the regime of elsa, which prunes by training."""
    sparsities: tuple[float, ...] = (0.3, 0.5, 0.7, 0.8, 0.9)
    """Fractions of zeros wanted in each pruned matrix, 0 to 1."""
    mask_structures: tuple[str, ...] = ()
    """N:M structures in addition to the sparsities: of every M consecutive inputs of a row exactly
    N survive, for example 2:4."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the calibration samples and of the order of training data. All seeds of a setting
    make one curve with a band."""
    within: tuple[float, ...] = ()
    """Ratios to the dense perplexity, such as 1.05 1.5. For each curve and ratio, find the highest
    sparsity within it, to 0.005, by up to six more sparsities beside those of --sparsities."""
    schedule: Axes[Schedule] = "grid"
    """Sparsities between the rounds of the iterative regime: those of --sparsities (`grid`), or
    --num-rounds steps that are equal (`linear`) or first large, then small (`cubic`)."""
    num_rounds: Axes[int | None] = None
    """Number of rounds of a linear or cubic schedule. By default 5."""
    protocol: ProtocolName = "sparsegpt"
    """Paper whose calibration and evaluation to follow: length and stride of windows, and the way
    texts are read. Flags that you give win. See core/texts/protocols.py."""
    dtype: DType = "auto"
    """Data type of weights and activations. `auto` is the one in which the weights are stored."""
    grid: str | None = None
    """YAML or TOML file of blocks of settings, for grids that are no product of lists. The names
    are those of flags. The record of a sweep, OUT_DIR/sweeps/ID.json, is such a file too."""

    def __post_init__(self) -> None:
        give_types_(self)
        for flag in ("models", "methods", "regimes", "seeds"):
            require_unique(flag, getattr(self, flag))
        if self.sparsities or not self.mask_structures:
            require_unique("sparsities", [round(s, 6) for s in self.sparsities])
        if self.mask_structures:
            require_unique(
                "mask-structures", map(str, map(MaskStructure.parse, self.mask_structures))
            )
        for method in self.methods:
            require_known("methods", method, EVERY_METHOD)
        for regime in self.regimes:
            require_known("regimes", regime, REGIMES)
        self._require_pairs()
        for seed in self.seeds:
            require(0 <= seed < 2**63, "seeds", seed, "use 0 to 2^63 - 1")
        require_known("protocol", self.protocol, PROTOCOLS)
        self.targets()  # Each target checks itself.
        given, remedy = self.num_rounds, "only --schedule linear or cubic has rounds of its own"
        require(given is None or self.schedule != "grid", "num-rounds", given, remedy)
        require(given is None or 1 <= given <= 1000, "num-rounds", given, "use 1 to 1000")
        for ratio in self.within:
            require(1 < ratio < 1e9, "within", ratio, "use ratios above 1, such as 1.05")
            require(bool(self.sparsities), "within", ratio, "needs some --sparsities")

    def _require_pairs(self) -> None:
        """Refuse a method without a regime of the grid, and a regime without a method."""
        for method in self.methods:
            remedy = "add joint to --regimes" if method in JOINT_METHODS else "add oneshot"
            has_regime = any(is_pair(method, regime) for regime in self.regimes)
            require(has_regime, "methods", method, f"has none of the --regimes given; {remedy}")
        for regime in self.regimes:
            remedy = "add elsa to --methods" if regime == JOINT else "add sparsegpt"
            has_method = any(is_pair(method, regime) for method in self.methods)
            require(has_method, "regimes", regime, f"has none of the --methods given; {remedy}")

    def targets(self) -> list[Target]:
        """Return the sparsities in rising order, then the mask structures; no product of both."""
        unstructured = [Target(round(s, 6)) for s in sorted(self.sparsities)]
        return unstructured + [Target.structured(text) for text in self.mask_structures]

    def path(self, regime: str, target: Target) -> list[Target]:
        """Return the targets that a branch passes through, its last one included."""
        if regime != "iterative":
            return [target]
        if target.structure is not None:
            return structured_path(target.structure)
        if self.schedule == "grid":
            steps = {round(s, 6) for s in self.sparsities} | {target.sparsity}
            return unstructured_path(target.sparsity, [*steps])
        return scheduled_path(target.sparsity, self.num_rounds or DEFAULT_ROUNDS, self.schedule)

    def most_rounds(self) -> int:
        """Return the rounds of training on the longest branch; 0 if no regime trains."""
        trained = [regime for regime in self.regimes if regime != "oneshot"]
        paths = [self.path(regime, target) for regime in trained for target in self.targets()]
        return max(map(len, paths), default=0)

    @property
    def trains(self) -> bool:
        """True if any regime trains."""
        return any(regime != "oneshot" for regime in self.regimes)

    @property
    def finetunes(self) -> bool:
        """True if any regime trains under masks that a method has chosen."""
        return any(regime not in ("oneshot", JOINT) for regime in self.regimes)

    @property
    def joins(self) -> bool:
        """True if any regime finds masks by training."""
        return JOINT in self.regimes


def is_pair(method: str, regime: str) -> bool:
    """Return True if a method has cells of a regime."""
    return (method in JOINT_METHODS) == (regime == JOINT)


@dataclass(frozen=True)
class OutputConfig:
    """Results: their place, and the treatment of results that exist already."""

    out_dir: str = "results/sweep_opt"
    """Local directory or URI (s3://, gs://) for all results: rows, weights, results.parquet and
    curves.html. Sweeps may share one."""
    keep: Keep | None = None
    """Pruned models to keep: none, final (the last of each cell) or all. By default all if they
    take less than 2 GB together, else final."""
    dry_run: bool = False
    """Print the cells, the number of those done, the trials, and estimates of memory and time; then
    stop."""
    retry_failed: bool = False
    """Run failed cells again, and cells that were not run because of them."""
    from_row: str | None = None
    """Id of a finished cell, or its first letters: run it again with its recorded settings and
    compare the numbers. Only --out-dir and flags of resources may go with it."""
    checkpoint_seconds: float = 60.0
    """Shortest time between two checkpoints of training or pruning, in seconds."""
    trackers: tuple[Tracker, ...] = ()
    """Report finished cells to wandb or mlflow too (install the extra of that name). Files for
    TensorBoard are always in OUT_DIR/ray."""
    published: str | None = None
    """CSV file of published perplexities to compare with. It has the columns of the project's own
    table, orchestrator/results/assets/published.csv, and its values come first. Hollow markers show
    them where model, text and windows agree."""

    def __post_init__(self) -> None:
        give_types_(self)
        require(bool(self.out_dir.strip()), "out-dir", "(empty)", "name a directory or URI")
        seconds = self.checkpoint_seconds
        require(seconds >= 0, "checkpoint-seconds", seconds, "use 0 or more seconds")
        if self.trackers:
            require_unique("trackers", self.trackers)


@dataclass(frozen=True)
class SweepConfig:
    """All settings of a sweep; a record of them is written beside its results."""

    grid: Unprefixed[GridConfig] = field(default_factory=GridConfig)
    calibration: Axes[CalibrationConfig] = field(default_factory=CalibrationConfig)
    prune: Axes[PruneConfig] = field(default_factory=PruneConfig)
    finetune: Axes[FinetuneConfig] = field(
        default_factory=lambda: FinetuneConfig(objective="adaptive")
    )
    joint: Axes[JointConfig] = field(default_factory=JointConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    resources: Unprefixed[ResourceConfig] = field(default_factory=ResourceConfig)
    output: Unprefixed[OutputConfig] = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        structures = self.grid.mask_structures
        if structures:
            remedy = f"does not work with --mask-structures {structures[0]}; use uniform"
            owl = self.prune.allocation != "uniform"
            require(not owl, "prune.allocation", self.prune.allocation, remedy)
            remedy = f"does not work with --mask-structures {structures[0]}; leave one of them out"
            require(not self.prune.keep_zeros, "prune.keep-zeros", "True", remedy)
        if self.prune.weight_bits is not None:
            remedy = "training would move weights off their grid; use --regimes oneshot"
            require(not self.grid.trains, "prune.weight-bits", self.prune.weight_bits, remedy)
        workers = self.resources.num_workers
        require(workers == 1 or not self.eval.speed, "eval.speed", "True", "needs --num-workers 1")
        needed = "several --finetune.lr or --joint.lr"
        require_used("finetune.validation", self.finetune.validation, self.chooses_rates, needed)
        if self.grid.joins:
            require_joint(self.finetune)
            self.joint.require_start(self.grid.sparsities, structures, self.grid.within)
        price = self.resources.price_per_gpu_hour
        planned = price is None or self.output.dry_run
        require(planned, "price-per-gpu-hour", price, "only --dry-run prints it; add that flag")

    @property
    def chooses_rates(self) -> bool:
        """True if any regime chooses among several learning rates."""
        finetune, joint = (len(rates) > 1 for rates in (self.finetune.lrs, self.joint.lrs()))
        return self.grid.finetunes and finetune or self.grid.joins and joint

    def pruning_methods(self) -> tuple[str, ...]:
        """Return the methods that run, with that which joint training starts from."""
        starts = self.grid.joins and self.joint.start != DENSE
        return tuple(dict.fromkeys((*self.grid.methods, *([self.joint.start] if starts else []))))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they are recorded beside results."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SweepConfig:
        """Return the settings that `to_dict` gave, also after JSON; absent ones get their default.

        Raises:
            BadInputError: a setting does not exist any more.
        """
        groups = {}
        for group in dataclasses.fields(cls):
            recorded = values.get(group.name, {})
            # Not the sweep's own defaults, which were others when the record was written.
            default = type(group.default_factory())()  # pyright: ignore
            known = {field.name for field in dataclasses.fields(default)}
            for name in recorded:
                remedy = "was recorded by another version, which knew this setting"
                require(name in known, f"{group.name}.{name}", recorded[name], remedy)
            lists = {k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items()}
            groups[group.name] = dataclasses.replace(default, **lists)
        return cls(**groups)
