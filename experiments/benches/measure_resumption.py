"""Seconds that resumable pruning costs: the save of a block, and going on after saved ones.

    python experiments/benches/measure_resumption.py [--hidden 2048] [--blocks 3] [--method wanda]

It prunes the embedded model and a random LLaMA-shaped one, saves each block on its own as a trial
does (weights, masks, record, hashes, rename), and then takes all of them up again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from core.activations import Calibration
from core.config import PruneConfig
from core.finished_blocks import FinishedBlock, Resumption, block_file, load_block, save_blocks
from core.models.loading import load_model
from core.models.sources import EMBEDDED_DIR
from core.pruners import PRUNERS
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from orchestrator.store.store import Store
from orchestrator.trial.checkpoints import add_checkpoint, opened_checkpoint

RANKS, STAGE = Ranks.current(), "stage"


def random_model(hidden: int, blocks: int) -> PreTrainedModel:
    """Return a LLaMA of this width with random weights in float32."""
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=hidden,
        intermediate_size=hidden * 43 // 16,
        num_hidden_layers=blocks,
        num_attention_heads=hidden // 64,
        max_position_embeddings=512,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def measure(name: str, model: PreTrainedModel, method: str, folder: Path) -> str:
    """Return a row: a block's weights and file, seconds to prune, save and take it up again."""
    store, seconds, marks, after = Store(str(folder)), [], [time.perf_counter()], None
    pruner = PRUNERS[method](PruneConfig())
    windows = torch.randint(1000, (4, 256), generator=torch.Generator().manual_seed(0))
    solving: list[float] = []

    def keep(block: FinishedBlock) -> None:
        nonlocal after
        start = time.perf_counter()
        solving.append(start - marks[-1])
        record = {"step": block.index + 1, "after": after, "facts": {}}
        write = lambda directory: save_blocks(directory, [block], RANKS)  # noqa: E731
        after = add_checkpoint(store, RANKS, STAGE, record, write)
        marks.append(time.perf_counter())
        seconds.append(marks[-1] - start)

    def prune(resumption: Resumption) -> None:
        prune_(model, pruner, Target(0.5), RANKS, Calibration(windows, resumption=resumption))

    prune(Resumption(keep=keep))
    start = time.perf_counter()
    with opened_checkpoint(store, RANKS, STAGE) as opened:
        assert opened is not None
        directory = opened.directory
        prune(Resumption(lambda index: load_block(block_file(directory, index))))
        taken_up = (time.perf_counter() - start) / len(seconds)
        size = block_file(directory, 0).stat().st_size / 1e6
    weights = sum(one.numel() for one in load_weights(store)) / 1e6
    times = (statistics.median(solving), statistics.median(seconds), taken_up)
    row = f"{name:<24}{weights:>10.2f}{size:>8.1f}"
    return row + f"{times[0]:>9.3f}{times[1]:>9.3f}{times[2]:>10.3f}"


def load_weights(store: Store) -> list[torch.Tensor]:
    """Return the weights of the first saved block."""
    with opened_checkpoint(store, RANKS, STAGE) as opened:
        assert opened is not None
        return [*load_block(block_file(opened.directory, 0)).weights.values()]


def main() -> None:
    """Print a table of both models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--method", choices=PRUNERS, default="wanda")
    options = parser.parse_args()
    print(
        f"{'one block':<24}{'M weights':>10}{'MB':>8}{'prune s':>9}{'save s':>9}{'take up s':>10}"
    )
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        model = load_model(EMBEDDED_DIR, torch.float32)
        print(measure("embedded", model, options.method, Path(folder, "embedded")))
        name = f"LLaMA shape, hidden {options.hidden}"
        model = random_model(options.hidden, options.blocks)
        print(measure(name, model, options.method, Path(folder, "random")))


if __name__ == "__main__":
    main()
