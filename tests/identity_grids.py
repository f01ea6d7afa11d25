"""Grids whose identities are recorded, as made-up inputs of the planner and as flags.

record_identities.py describes them. Dtypes are fixed, since `auto` follows the processor.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from core.config import FinetuneConfig, PruneConfig
from core.measures.zero_shot import task_identity, task_label
from orchestrator.config import GridConfig
from orchestrator.plan.inputs import (
    CalibrationText,
    EvaluationText,
    ModelInputs,
    TaskInput,
    TextInput,
    TrainingText,
    ValidationText,
)
from orchestrator.plan.plan import Plan
from orchestrator.plan.planner import Planner

RECORDED = Path(__file__).resolve().parent / "recorded"
METHODS = ("magnitude", "wanda", "sparsegpt", "alps")
REGIMES = ("oneshot", "finetune", "iterative")
ALL: dict[str, Any] = {"methods": METHODS, "regimes": REGIMES}


T = TypeVar("T", bound=TextInput)


def text(role: type[T], name: str, **windows: Any) -> T:
    """Return a text in one role, with an identity made of its name."""
    return role(name=name, text=f"sha256:{name} plain", **windows)


def evaluated(name: str, **windows: Any) -> EvaluationText:
    """Return an evaluation text."""
    return text(EvaluationText, name, **windows)


def calibrating(name: str, **windows: Any) -> CalibrationText:
    """Return a calibration text."""
    return text(CalibrationText, name, **windows)


def model(name: str = "tiny", **changes: Any) -> ModelInputs:
    """Return the inputs of a model that exists in name only."""
    inputs = ModelInputs(
        name=name,
        identity=f"sha256:{name}",
        dtype="float32",
        training_dtype="float32",
        calibration=calibrating("cal", num_samples=8, seq_len=16, sampling="stream"),
        finetune=text(TrainingText, "train", seq_len=16),
        finetune_tokens=1000,
        batch_tokens=64,
        evaluations=(evaluated("test", seq_len=16, stride=16),),
    )
    return dataclasses.replace(inputs, **changes)


@dataclasses.dataclass(frozen=True)
class Case:
    """One grid that is planned from made-up inputs."""

    grid: dict[str, Any]
    prune: PruneConfig = PruneConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    models: tuple[ModelInputs, ...] = (model(),)
    tasks: tuple[str, ...] = ()
    limit: int | None = None

    def plan(self) -> Plan:
        """Return the plan of the grid."""
        wanted = {"models": tuple(each.name for each in self.models), "dtype": "float32"}
        grid = GridConfig(**{"sparsities": (0.5,), **wanted, **self.grid})
        tasks = tuple(task(name) for name in self.tasks)
        planner = Planner(grid, self.prune, self.finetune, tasks, self.limit)
        return planner.build(self.models)


def task(name: str) -> TaskInput:
    """Return a task; TINY_CHOICE is a definition in a file."""
    path = str(RECORDED / "tiny_choice.yaml") if name == "TINY_CHOICE" else name
    return TaskInput(path, task_identity(path), task_label(path))


def only(*methods: str, **grid: Any) -> dict[str, Any]:
    """Return one-shot grid settings of these methods; further settings win."""
    return {"methods": methods, "regimes": ("oneshot",), **grid}


def trained(**settings: Any) -> Case:
    """Return a small grid that trains once after each method, with these training settings."""
    chosen = "lr" in settings
    validation = text(ValidationText, "valid", seq_len=16, max_windows=4096) if chosen else None
    grid = only("magnitude", "sparsegpt", regimes=("finetune",))
    inputs = model(validation=validation)
    return Case(grid, finetune=FinetuneConfig(**settings), models=(inputs,))


TEXTS = (
    evaluated("test", seq_len=16, stride=16),
    evaluated("wiki", seq_len=16, stride=8, max_windows=4),
    evaluated("c4", seq_len=16, stride=16, num_samples=256),
)
MANY: dict[str, Any] = {**ALL, "sparsities": (0.3, 0.5, 0.7, 0.9)}
HALF = model(
    "half", dtype="bfloat16", training_dtype="bfloat16", finetune_tokens=4099, batch_tokens=512
)
LONG = calibrating("c4:train", num_samples=128, seq_len=2048, sampling="documents")

CASES: dict[str, Case] = {
    # Methods, targets and seeds.
    "oneshot": Case(only(*METHODS, sparsities=(0.0, 0.3, 0.5))),
    "oneshot-rounded-sparsities": Case(only("wanda", sparsities=(0.1 + 0.2, 1 / 3, 1.0))),
    "oneshot-seeds": Case(only(*METHODS, seeds=(0, 1, 7))),
    "oneshot-structures": Case(only(*METHODS, mask_structures=("2:4", "4:8"))),
    "structures-alone": Case(only(*METHODS, sparsities=(), mask_structures=("2:4", "1:4"))),
    "all-regimes": Case({**ALL, "sparsities": (0.5, 0.7)}),
    "all-regimes-magnitude": Case({**ALL, "methods": ("magnitude",), "sparsities": (0.3, 0.5)}),
    "iterative-structures": Case(
        {**ALL, "methods": ("magnitude", "alps"), "mask_structures": ("2:4", "4:8")}
    ),
    "iterative-structure-alone": Case(
        only("wanda", regimes=("iterative",), sparsities=(), mask_structures=("2:4",))
    ),
    "many": Case({**MANY, "mask_structures": ("2:4", "4:8"), "seeds": (0, 1)}),
    # Schedules and budgets.
    "linear": Case({**MANY, "schedule": "linear"}),
    "linear-3": Case(only("sparsegpt", regimes=("iterative",), schedule="linear", num_rounds=3)),
    "cubic": Case({**MANY, "schedule": "cubic"}),
    "cubic-4": Case(only("magnitude", regimes=("iterative",), schedule="cubic", num_rounds=4)),
    "cubic-structures": Case({**MANY, "schedule": "cubic", "mask_structures": ("2:4",)}),
    "budget-total": Case({**MANY, "seeds": (0, 3)}, finetune=FinetuneConfig(budget="total")),
    "budget-total-cubic": Case(
        only("wanda", regimes=("iterative",), schedule="cubic", num_rounds=3),
        finetune=FinetuneConfig(budget="total"),
    ),
    "budget-total-structure": Case(
        only("wanda", regimes=("iterative", "finetune"), sparsities=(), mask_structures=("4:8",)),
        finetune=FinetuneConfig(budget="total"),
    ),
    # Pruning settings.
    "dampening": Case(only(*METHODS), prune=PruneConfig(dampening_frac=0.1)),
    "block-size": Case(only(*METHODS), prune=PruneConfig(block_size=64)),
    "refine": Case(only(*METHODS), prune=PruneConfig(refine="swaps")),
    "refine-structure-iterative": Case(
        {**ALL, "mask_structures": ("2:4",)}, prune=PruneConfig(refine="swaps")
    ),
    "owl": Case(only(*METHODS, seeds=(0, 1)), prune=PruneConfig(allocation="owl")),
    "owl-iterative": Case(MANY, prune=PruneConfig(allocation="owl", refine="swaps")),
    "weight-bits": Case(only(*METHODS), prune=PruneConfig(weight_bits=4)),
    "weight-bits-groups": Case(
        only(*METHODS, mask_structures=("2:4",)),
        prune=PruneConfig(weight_bits=3, quant_group_size=128, block_size=32),
    ),
    "owl-weight-bits": Case(only(*METHODS), prune=PruneConfig(weight_bits=4, allocation="owl")),
    # Training settings.
    "finetune": trained(),
    "finetune-lr": trained(lr=1e-4),
    "finetune-lr-list-of-one": trained(lr=(1e-4,)),
    "finetune-lrs": trained(lr=(1e-4, 3e-4, 1e-3)),
    "finetune-optimizer": trained(warmup_frac=0.0, weight_decay=0.1, clip_norm=0.5),
    "reconstruct": trained(objective="reconstruct"),
    "distill": trained(distill=True),
    "distill-set": trained(distill=True, distill_temperature=4.0, distill_mix=1.0),
    "bias-norm": trained(trainable="bias_norm"),
    "masklora": trained(trainable="masklora"),
    "masklora-rank": trained(trainable="masklora", lora_rank=4),
    "masklora-reconstruct": trained(trainable="masklora", objective="reconstruct"),
    "masklora-distill-lrs": trained(trainable="masklora", distill=True, lr=(1e-4, 1e-3)),
    "bias-norm-reconstruct-lrs": trained(
        trainable="bias_norm", objective="reconstruct", lr=(1e-4, 1e-3)
    ),
    "many-recovered": Case(
        {**MANY, "seeds": (0, 1)},
        finetune=FinetuneConfig(distill=True, trainable="masklora", budget="total"),
    ),
    # Models and texts. What a protocol changes of a plan are windows, strides and samples.
    "texts": Case(only("magnitude", "wanda"), models=(model(evaluations=TEXTS),)),
    "texts-trained": Case({**MANY, "seeds": (0, 1)}, models=(model(evaluations=TEXTS),)),
    "models": Case(only("magnitude", "sparsegpt"), models=(model(), HALF)),
    "models-trained": Case(MANY, models=(model(), HALF, model("c", evaluations=TEXTS))),
    "windows-sparsegpt": Case(
        only("sparsegpt"),
        models=(
            model(
                calibration=LONG,
                evaluations=(evaluated("c4", seq_len=2048, stride=2048, max_windows=256),),
            ),
        ),
    ),
    "windows-wanda": Case(
        only("wanda"),
        models=(
            model(
                calibration=text(
                    CalibrationText, "c4:train", num_samples=128, seq_len=4096, sampling="documents"
                ),
                evaluations=(evaluated("wiki", seq_len=4096, stride=4096),),
                dtype="float16",
            ),
        ),
    ),
    "windows-alps": Case(
        only("alps"),
        models=(
            model(
                calibration=LONG,
                evaluations=(
                    text(
                        EvaluationText,
                        "c4",
                        seq_len=2048,
                        stride=2048,
                        max_windows=None,
                        num_samples=256,
                    ),
                ),
            ),
        ),
    ),
    "windows-prune-and-tune": Case(
        only("magnitude", regimes=("iterative",), sparsities=(0.1, 0.2)),
        models=(model(evaluations=(evaluated("wiki", seq_len=1024, stride=512),)),),
    ),
    "no-texts-but-evaluation": Case(
        only("magnitude"), models=(model(calibration=None, finetune=None, finetune_tokens=0),)
    ),
    # Zero-shot tasks.
    "tasks": Case(only("magnitude", "wanda"), tasks=("lambada_openai", "piqa")),
    "tasks-limit": Case(
        {**ALL, "methods": ("sparsegpt",)}, tasks=("piqa", "TINY_CHOICE"), limit=10
    ),
    "tasks-models": Case(MANY, tasks=("arc_easy",), models=(model(), HALF)),
}

NEXT_TOKEN = ("--finetune.objective", "next_token")
"""The objective that was the default when most grids were recorded."""
EMBEDDED: dict[str, list[str]] = {
    "embedded": ["--sparsities", "0.5", *NEXT_TOKEN],
    "embedded-adaptive": ["--sparsities", "0.5"],
    "embedded-everything": [
        *NEXT_TOKEN,
        *("--methods", *METHODS, "--mask-structures", "2:4", "--seeds", "0", "1"),
        *("--finetune.lr", "1e-4", "1e-3", "--eval.texts", "embedded", "embedded:validation"),
        *("--finetune.validation", "embedded:calibration", "--calibration.text", "embedded:train"),
        *(
            "--finetune.text",
            "tiny_choice.jsonl",
            "--eval.max-windows",
            "7",
            "--calibration.seq-len",
            "64",
        ),
    ],
    "embedded-wanda": ["--protocol", "wanda", "--sparsities", "0.5", "--regimes", "oneshot"],
    "embedded-prune-and-tune": [
        *NEXT_TOKEN,
        *("--protocol", "prune-and-tune", "--eval.seq-len", "64", "--eval.stride", "32"),
        *("--sparsities", "0.1", "0.2", "--methods", "magnitude"),
    ],
    "embedded-alps-hub-texts": [
        *NEXT_TOKEN,
        *("--protocol", "alps", "--methods", "alps", "--sparsities", "0.7", "--calibration.text"),
        *("c4", "--finetune.text", "wikitext2", "--eval.texts", "c4", "wikitext2", "embedded"),
    ],
    "embedded-sparsegpt-hub-texts": [
        *NEXT_TOKEN,
        *("--methods", "sparsegpt", "--sparsities", "0.7", "--calibration.text", "wikitext2"),
        *("--finetune.text", "c4:train", "--eval.texts", "c4", "wikitext2", "embedded:test"),
    ],
}
"""Flags of sweeps of the embedded model; what its texts are is read from their files."""
