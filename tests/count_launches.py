"""Parts of the product on a CPU and on the pretended GPU: launches, host waits, differences.

    python tests/count_launches.py [--lines] [PART ...]

prints a line for each part, on the embedded model. `--lines` adds the lines of code with most
launches and waits, and `--json FILE` writes the figures. On the CPU the solvers go the way of an
accelerator, so the numbers of both devices are equal. Training in bf16 is not here, except for
reconstruction: FSDP2 shards the model, which the pretended GPU does not cover.
"""

from __future__ import annotations

import argparse
import copy
import json
import lzma
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pretended_gpu
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from core import accelerator
from core.activations import Calibration
from core.allocation import allocate, outlier_ratios
from core.config import PruneConfig
from core.joint_config import JointConfig, Score
from core.measures.perplexity import evaluate
from core.models.anatomy import ATTRIBUTE
from core.models.blocks import decoder_blocks, prunable_matrices
from core.models.loading import load_model
from core.models.mask_files import Masks
from core.models.sharding import shard_
from core.models.tokenizers import load_tokenizer
from core.pruners import make_pruner
from core.pruners.hessian import Hessian
from core.pruners.pruner import Ask
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.texts.tokenization import tokenize
from core.texts.windows import evaluation_windows
from core.training.elsa import Aim, elsa_
from core.training.finetune import finetune_
from core.training.loop import Loop
from core.training_config import Training

ASSETS = Path(__file__).resolve().parents[1] / "core" / "assets"
SAMPLES, SEQ_LEN = 32, 64
Found = dict[str, Tensor]
"""Results of a part by name, on the CPU."""


@dataclass(frozen=True)
class Setting:
    """A dense model on one device, and what the parts run on."""

    dense: PreTrainedModel
    ranks: Ranks
    stream: Tensor
    """Tokens of the embedded calibration text."""
    counted: Callable[[], AbstractContextManager[object]] = nullcontext
    """Within it the launches and waits of the part are counted."""

    def model(self) -> PreTrainedModel:
        """A copy of the dense model on the device."""
        model = copy.deepcopy(self.dense)
        shard_(model, self.ranks)
        return model

    def calibration(self) -> Calibration:
        """Windows from the beginning of the stream."""
        return Calibration(self.stream[: SAMPLES * SEQ_LEN].view(SAMPLES, SEQ_LEN))


def prune(
    setting: Setting, method: str, *targets: Target, gone: float = 0, **options: Any
) -> Found:
    """Prune once for each target; with `gone`, from masks that pruned this share before."""
    model, calibration = setting.model(), setting.calibration()
    config = PruneConfig(**options)
    found, masks = {}, earlier(model, gone) if gone else None
    for target in targets:
        wanted: Any = target
        with setting.counted():
            if config.allocation == "owl":
                ratios = outlier_ratios(model, calibration, setting.ranks)
                wanted = allocate(prunable_matrices(model), ratios, target)
            pruner = make_pruner(method, config)
            done = prune_(model, pruner, wanted, setting.ranks, calibration, masks)
        masks = done.masks
        found |= {f"grid {name}": grid.scale for name, grid in done.grids.items()}
        errors = [torch.nan if error is None else error for error in done.errors.values()]
        found["errors"] = torch.tensor(errors)
    return found | weights(model) | {f"mask {name}": mask for name, mask in (masks or {}).items()}


def prune_experts(setting: Setting, target: Target) -> Found:
    """Prune 16 random experts of two matrices [48, 64] by SparseGPT, all at once."""
    generator, asks = torch.Generator().manual_seed(0), []
    for _ in range(16):
        weights = [torch.randn(48, 64, generator=generator) for _ in range(2)]
        statistic = Hessian(64, setting.ranks.device)
        statistic.update(torch.randn(256, 64, generator=generator).to(setting.ranks.device))
        weights = [weight.to(setting.ranks.device) for weight in weights]
        asks.append(Ask(weights, statistic, [target] * 2, None))
    with setting.counted():
        solved = make_pruner("sparsegpt", PruneConfig()).prune_stack(asks)
    found: Found = {}
    for expert, solution in enumerate(solved):
        assert solution is not None
        for place, one in enumerate(solution.matrices):
            found[f"{expert} {place}"] = one.weight.cpu()
            found[f"mask {expert} {place}"] = one.mask.cpu()
    return found


def earlier(model: PreTrainedModel, share: float) -> Masks:
    """Masks of every matrix, whose zeros are written into the model."""
    pruner = make_pruner("magnitude", PruneConfig())
    return prune_(model, pruner, Target(share), Ranks.current("cpu")).masks


def train(setting: Setting, resume: bool = False, dtype: str = "float32", **options: Any) -> Found:
    """Train for two steps on a model with half of its weights pruned; with `resume` in two runs."""
    model, teacher = setting.model(), setting.model()
    masks = earlier(model, 0.5)
    batches = setting.stream[: 8 * SEQ_LEN].view(2, 4, SEQ_LEN).unbind()
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "checkpoint"
        loop = Loop(
            setting.ranks,
            micro_batch=2,
            compute_dtype=getattr(torch, dtype),
            save_checkpoint=(lambda _, write: write(saved)) if resume else None,
            save_every_seconds=0,
        )
        with setting.counted():
            report = finetune_(model, masks, batches, Training(**options), loop, teacher)
        if resume:
            model = setting.model()
            earlier(model, 0.5)
            loop = Loop(setting.ranks, micro_batch=2, resume_from=saved)
            with setting.counted():
                report = finetune_(model, masks, batches, Training(**options), loop, teacher)
            assert report.steps_resumed
    return weights(model) | {"losses": torch.tensor(report.losses)}


def join(setting: Setting, target: Target, score: Score) -> Found:
    """Train two steps of ELSA, with a projection after each."""
    model, config = setting.model(), JointConfig(interval=1, score=score)
    aim = Aim(target, Training(lr=1e-3), config)
    batches = setting.stream[: 8 * SEQ_LEN].view(2, 4, SEQ_LEN).unbind()
    with setting.counted():
        done = elsa_(model, {}, batches, aim, Loop(setting.ranks, micro_batch=2))
    return weights(model) | {f"mask {name}": mask for name, mask in done.masks.items()}


def measure(setting: Setting, dtype: torch.dtype = torch.float32) -> Found:
    """Evaluate the dense model on 32 windows."""
    model, windows = setting.model(), evaluation_windows(SAMPLES * SEQ_LEN, SEQ_LEN)
    with setting.counted():
        stream = setting.stream[: SAMPLES * SEQ_LEN]
        found = evaluate(model, stream, windows, setting.ranks, compute_dtype=dtype)
    return {"nll": torch.tensor(found.nll)}


def weights(model: PreTrainedModel) -> Found:
    """All parameters of a model."""
    return {f"weight {name}": param.detach().cpu() for name, param in model.named_parameters()}


HALF, GROUPS = Target(0.5), Target.structured("2:4")
Part = Callable[[Setting], Found]
PARTS: dict[str, Part] = {
    **{
        f"prune {method} {name}": partial(prune_part, method)
        for method in ("magnitude", "wanda", "sparsegpt", "alps")
        for name, prune_part in {
            "0.5": lambda method, setting: prune(setting, method, HALF),
            "2:4": lambda method, setting: prune(setting, method, GROUPS),
        }.items()
    },
    "experts 0.5": lambda setting: prune_experts(setting, HALF),
    "experts 2:4": lambda setting: prune_experts(setting, GROUPS),
    "grow wanda": lambda setting: prune(setting, "wanda", Target(0.3), HALF),
    "grow sparsegpt": lambda setting: prune(setting, "sparsegpt", Target(0.3), HALF),
    "grow alps": lambda setting: prune(setting, "alps", HALF, gone=0.3),
    "grow sparsegpt 1:4": lambda setting: prune(
        setting, "sparsegpt", Target.structured("3:4"), Target.structured("1:4")
    ),
    "owl wanda": lambda setting: prune(setting, "wanda", HALF, allocation="owl"),
    "owl sparsegpt": lambda setting: prune(setting, "sparsegpt", HALF, allocation="owl"),
    "4 bits": lambda setting: prune(setting, "sparsegpt", HALF, weight_bits=4, quant_group_size=32),
    "4 bits 2:4": lambda setting: prune(setting, "sparsegpt", GROUPS, weight_bits=4),
    "swaps wanda": lambda setting: prune(setting, "wanda", HALF, refine="swaps"),
    "swaps sparsegpt": lambda setting: prune(setting, "sparsegpt", HALF, refine="swaps"),
    "swaps wanda 2:4": lambda setting: prune(setting, "wanda", GROUPS, refine="swaps"),
    "train": train,
    "train resumed": partial(train, resume=True),
    "train bias_norm": partial(train, trainable="bias_norm"),
    "train masklora": partial(train, trainable="masklora"),
    "distill": partial(train, distill=True),
    "distill bias_norm": partial(train, distill=True, trainable="bias_norm"),
    "reconstruct": partial(train, objective="reconstruct"),
    "reconstruct bf16": partial(train, objective="reconstruct", dtype="bfloat16"),
    "reconstruct masklora": partial(train, objective="reconstruct", trainable="masklora"),
    "elsa 0.5": lambda setting: join(setting, HALF, "second_moment"),
    "elsa 2:4": lambda setting: join(setting, GROUPS, "magnitude"),
    "evaluate": measure,
    "evaluate bf16": partial(measure, dtype=torch.bfloat16),
}


def compare(expected: Found, found: Found) -> dict[str, float]:
    """The largest share of a mask that differs, and the largest relative change of the others."""
    assert expected.keys() == found.keys()
    masks, others = [0.0], [0.0]
    for name, tensor in expected.items():
        if tensor.dtype == torch.bool:
            masks.append(float((tensor != found[name]).float().mean()))
        else:
            known, new = tensor.double().nan_to_num(), found[name].double().nan_to_num()
            others.append(float((new - known).norm() / known.norm().clamp(min=1e-30)))
    return {"masks": max(masks), "others": max(others)}


def tokens() -> Tensor:
    """The first tokens of the embedded calibration text."""
    with lzma.open(ASSETS / "text" / "calibration.jsonl.xz", "rt") as file:
        text = file.read(60_000)
    return tokenize(text, load_tokenizer(ASSETS / "model"))


def run(
    part: Part, gpu: pretended_gpu.PretendedGpu, dense: PreTrainedModel, stream: Tensor
) -> tuple[pretended_gpu.Counts, dict[str, Any]]:
    """Run a part on both devices; return its counts by line and its figures."""
    counts = pretended_gpu.Counts()
    # The CPU goes the way of an accelerator, with the only attention that the pretended GPU has.
    # All results are equal then, unless something is wrong on the device.
    hosts = mock.patch.object(accelerator, "HOSTS", frozenset())
    with hosts, sdpa_kernel(SDPBackend.MATH):
        expected = part(Setting(dense, Ranks.current("cpu"), stream))
    with gpu:
        counted = partial(gpu.counted, counts)
        found = part(Setting(dense, Ranks.current("cuda"), stream, counted))
    figures = {"launches": counts.launches.total(), "waits": counts.waits.total()}
    return counts, figures | compare(expected, found)


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="by default all")
    parser.add_argument("--lines", action="store_true", help="print the lines that cost most")
    parser.add_argument("--blocks", type=int, help="the first blocks alone; by default all")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gpu, stream, figures = pretended_gpu.PretendedGpu(), tokens(), {}
    dense = load_model(ASSETS / "model", torch.float32)
    blocks = decoder_blocks(dense)
    del blocks[options.blocks or len(blocks) :]
    # The anatomy of all blocks was found already.
    dense.config.num_hidden_layers = len(blocks)
    delattr(dense, ATTRIBUTE)
    for name in options.parts or PARTS:
        counts, figures[name] = run(PARTS[name], gpu, dense, stream)
        row = figures[name]
        print(
            f"{name:24}{row['launches']:8,} launches{row['waits']:7,} waits"
            f"   masks {row['masks']:.1e}   others {row['others']:.1e}",
            flush=True,
        )
        if options.lines:
            print(counts.table())
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
