"""Bench of masked training: the cost of masks in a step, and our loop beside a HF Trainer.

    pip install 'accelerate>=1.1,<2'              # the Trainer needs it
    python experiments/benches/bench_finetune.py  # a random OPT-125M, float32 weights, no dropout

Three loops take turns in one process, a few steps at a time: ours with masks (half of every matrix
is pruned), ours without masks, and a Trainer with the same batches, optimizer, clipping and
autocast. The medians leave out the first step of each turn. `--objectives` times a step of every
objective and of every choice of trained parameters instead, without a Trainer. Takes some
minutes on two cores.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, OPTConfig, PreTrainedModel

from core.config import FinetuneConfig, PruneConfig
from core.precision import DTYPES, training_dtype
from core.pruners import PRUNERS
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.training.finetune import finetune_
from core.training.loop import Loop
from core.training.optimizer import BETAS

SHAPES = {
    "opt-125m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "opt-350m-like": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "opt-1.3b": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
}
RECOVERIES = {
    "next_token": FinetuneConfig(),
    "next_token bias_norm": FinetuneConfig(trainable="bias_norm"),
    "next_token masklora": FinetuneConfig(trainable="masklora"),
    "distill": FinetuneConfig(distill=True),
    "reconstruct": FinetuneConfig(objective="reconstruct"),
}


def main() -> None:
    """Time the loops and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="opt-125m")
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--batch-windows", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3, help="in a turn; the first does not count")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--objectives", action="store_true")
    flags = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    device = torch.device(flags.device)
    flags.compute = training_dtype(flags.dtype, device)
    size = (flags.steps * flags.batch_windows, flags.seq_len)
    windows = torch.randint(4, 50_000, size, generator=torch.Generator().manual_seed(0))
    loops = objectives(flags, windows) if flags.objectives else against_trainer(flags, windows)
    seconds = defaultdict(list)
    for turn in range(flags.turns):
        # The order is reversed in every second turn.
        for name in list(loops)[:: 1 if turn % 2 == 0 else -1]:
            seconds[name] += loops[name]()[1:]
    tokens = flags.batch_windows * flags.seq_len
    print(
        f"{flags.shape}, {flags.compute}, {tokens} tokens a step, {torch.get_num_threads()} threads"
    )
    medians = {name: statistics.median(seconds[name]) for name in loops}
    for name, median in medians.items():
        spread = statistics.quantiles(seconds[name], n=4)
        print(
            f"{name:<22} {median:7.3f} s a step ({spread[0]:.3f} to {spread[2]:.3f}, "
            f"{len(seconds[name])} steps) {tokens / median:8.0f} tokens a second"
        )
    if not flags.objectives:
        masks = medians["ours, masked"] / medians["ours, dense"] - 1
        print(f"masks add {masks:+.1%} to a step")
        print(f"Trainer / ours, masked: {medians['Trainer'] / medians['ours, masked']:.3f}")


def random_model(shape: dict[str, int], device: str) -> PreTrainedModel:
    """Return a model of the shape with float32 weights and without dropout."""
    torch.manual_seed(0)
    config = OPTConfig(
        **shape,
        ffn_dim=4 * shape["hidden_size"],
        word_embed_proj_dim=shape["hidden_size"],
        vocab_size=50_272,
        dropout=0.0,
        use_cache=False,
    )
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config)


def half_pruned(model: PreTrainedModel, ranks: Ranks) -> dict[str, Tensor]:
    """Prune half of every matrix by magnitude; return the masks."""
    return prune_(model, PRUNERS["magnitude"](PruneConfig()), Target(0.5), ranks).masks


def ours(
    model: PreTrainedModel,
    masks: dict[str, Tensor],
    windows: Tensor,
    flags: argparse.Namespace,
    config: FinetuneConfig,
    teacher: PreTrainedModel | None = None,
) -> Callable[[], list[float]]:
    """Return a function that runs a turn of our loop and returns the seconds of each step."""

    def turn() -> list[float]:
        marks = [time.perf_counter()]
        loop = Loop(
            Ranks.current(torch.device(flags.device)),
            micro_batch=flags.micro_batch,
            compute_dtype=DTYPES[flags.compute],
            report=lambda *_: marks.append(time.perf_counter()),
        )
        finetune_(model, masks, windows.split(flags.batch_windows), config, loop, teacher)
        return [after - before for before, after in zip(marks, marks[1:])]

    return turn


def against_trainer(flags: argparse.Namespace, windows: Tensor) -> dict[str, Callable]:
    """Return our loop with and without masks and the Trainer's, each with its own model."""
    shape = SHAPES[flags.shape]
    dense, masked = (random_model(shape, flags.device) for _ in range(2))
    masks = half_pruned(masked, Ranks.current(torch.device(flags.device)))
    plain = FinetuneConfig(lr=1e-4)
    return {
        "ours, masked": ours(masked, masks, windows, flags, plain),
        "ours, dense": ours(dense, {}, windows, flags, plain),
        "Trainer": trainer(random_model(shape, flags.device), windows, flags),
    }


def trainer(
    model: PreTrainedModel, windows: Tensor, flags: argparse.Namespace
) -> Callable[[], list[float]]:
    """Return a function that runs a turn of a Trainer and returns the seconds of each step."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Marks(TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.marks = [time.perf_counter()]

        def on_step_end(self, *_, **__):
            self.marks.append(time.perf_counter())

    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        use_cpu=flags.device == "cpu",
        bf16=flags.compute == "bfloat16",
        per_device_train_batch_size=flags.micro_batch,
        gradient_accumulation_steps=flags.batch_windows // flags.micro_batch,
        num_train_epochs=1,
        learning_rate=1e-4,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=0.0,
        max_grad_norm=1.0,
        warmup_steps=1,
        optim="adamw_torch_fused",
        lr_scheduler_type="linear",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = [{"input_ids": window, "labels": window} for window in windows]

    def turn() -> list[float]:
        marks = Marks()
        # A Trainer keeps its optimizer. A new one starts as our rounds do.
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[marks]).train()
        return [after - before for before, after in zip(marks.marks, marks.marks[1:])]

    return turn


def objectives(flags: argparse.Namespace, windows: Tensor) -> dict[str, Callable]:
    """Return a loop for each objective. A step of reconstruction trains one half of a block."""
    shape, loops = SHAPES[flags.shape], {}
    teacher = random_model(shape, flags.device)
    for name, config in RECOVERIES.items():
        model = random_model(shape, flags.device)
        masks = half_pruned(model, Ranks.current(torch.device(flags.device)))
        loops[name] = ours(model, masks, windows, flags, config, teacher)
    return loops


if __name__ == "__main__":
    main()
