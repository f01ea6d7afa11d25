"""Bench of pruning a whole model: seconds with one rank and with two, and memory.

    python experiments/benches/bench_model.py ranks|memory [--model DIR --text FILE]

Models are pruned at 0.5. `bench_solvers.py` runs all of this, some minutes, beside the original's
loop. It starts the cases that need processes of their own through this command.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import original_sparsegpt as original
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, OPTConfig, PreTrainedModel

from core.activations import Calibration
from core.config import PruneConfig
from core.measures.perplexity import evaluate
from core.models.loading import load_model
from core.models.sharding import shard_
from core.models.tokenizers import load_tokenizer
from core.precision import DTYPES, inference_dtype
from core.pruners import PRUNERS
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.texts.windows import evaluation_windows

SPARSITY = 0.5
OPT_1_3B = {
    "hidden_size": 2048,
    "ffn_dim": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "word_embed_proj_dim": 2048,
}
MICRO_BATCH_TOKENS = 2048
"""Tokens in one forward pass, as many as a sweep takes on a CPU."""


def windows_of(model_dir: Path, text: Path, count: int = 32, length: int = 512) -> Tensor:
    """Return windows [count, length]: the beginnings of lines that are long enough."""
    tokenizer, found = load_tokenizer(model_dir), []
    for line in text.read_text(encoding="utf-8").splitlines():
        ids = tokenizer(line).input_ids
        if len(ids) > length:
            found.append(ids[:length])
    found = (found * (count // max(len(found), 1) + 1))[:count]
    return torch.tensor(found)


def load(model_dir: Path) -> PreTrainedModel:
    """Return a model in the dtype that a sweep would choose on this CPU."""
    stored = AutoConfig.from_pretrained(model_dir).dtype or torch.float32
    dtype = inference_dtype("auto", str(stored).removeprefix("torch."), torch.device("cpu"))
    return load_model(model_dir, DTYPES[dtype])


def prune(model: PreTrainedModel, method: str, windows: Tensor) -> None:
    """Prune half of each matrix with the micro-batches of a sweep on a CPU."""
    ranks, micro_batch = Ranks.current(), max(1, MICRO_BATCH_TOKENS // windows.shape[1])
    pruner = PRUNERS[method](PruneConfig())
    prune_(model, pruner, Target(SPARSITY), ranks, Calibration(windows, micro_batch))


def bench_model(
    reference: type, model_dir: Path, text: Path, held_out: Path | None, runs: int
) -> dict[str, float]:
    """Time three ways to prune, in turn; return seconds, ratios and perplexities on `held_out`."""
    windows, found = windows_of(model_dir, text), {}
    times: dict[str, list[float]] = {"original": [], "sparsegpt": [], "alps": []}
    for _ in range(runs):
        for name, taken in times.items():
            model = load(model_dir)
            start = time.perf_counter()
            if name == "original":
                original.prune_model(reference, model, windows, SPARSITY)
            else:
                prune(model, name, windows)
            taken.append(time.perf_counter() - start)
            if held_out is not None and len(taken) == runs:
                found[f"{name}_perplexity"] = perplexity(model, model_dir, held_out)
    found |= {f"{name}_seconds": statistics.median(taken) for name, taken in times.items()}
    found["speedup"] = found["original_seconds"] / found["sparsegpt_seconds"]
    found["alps_ratio"] = found["alps_seconds"] / found["sparsegpt_seconds"]
    return found


def perplexity(model: PreTrainedModel, model_dir: Path, text: Path) -> float:
    """Return the perplexity on the first 24 windows of 512 tokens."""
    ids = load_tokenizer(model_dir)(text.read_text(encoding="utf-8")).input_ids
    windows = evaluation_windows(len(ids), 512, None, 24)
    return evaluate(model, torch.tensor(ids), windows, Ranks.current(), micro_batch=4).perplexity


def ranks_of(rank: int, size: int, model_dir: Path, text: Path, work: str) -> None:
    """Prune with SparseGPT as one rank with one thread; rank 0 writes the seconds."""
    torch.set_num_threads(1)
    store = f"file://{work}/store-{size}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    model, windows = load(model_dir), windows_of(model_dir, text, count=16)
    shard_(model, Ranks.current())
    dist.barrier()
    start = time.perf_counter()
    prune(model, "sparsegpt", windows)
    dist.barrier()
    if rank == 0:
        Path(work, f"{size}.txt").write_text(str(time.perf_counter() - start))
    dist.destroy_process_group()


def time_ranks(model_dir: Path, text: Path, runs: int) -> dict[str, float]:
    """Time one process and two in turn, with one thread each; return medians."""
    taken: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(runs):
        for size, times in taken.items():
            with tempfile.TemporaryDirectory() as work:
                mp.start_processes(  # pyright: ignore[reportPrivateImportUsage]
                    ranks_of, (size, model_dir, text, work), nprocs=size, start_method="spawn"
                )
                times.append(float(Path(work, f"{size}.txt").read_text()))
    one, two = statistics.median(taken[1]), statistics.median(taken[2])
    return {"one_seconds": one, "two_seconds": two, "speedup": one / two}


def measure_memory() -> dict[str, float]:
    """Prune a random OPT-1.3B in bfloat16 on few short windows; return the peak in GiB."""
    torch.manual_seed(0)
    config = OPTConfig(**OPT_1_3B, dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    start = time.perf_counter()
    prune(model, "sparsegpt", torch.randint(4, config.vocab_size, (8, 256)))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"peak_gib": peak, "seconds": seconds}


def in_process(case: str, *arguments: str) -> dict[str, float]:
    """Run a case in a process of its own; return its figures."""
    command = [sys.executable, __file__, case, *arguments]
    return json.loads(subprocess.check_output(command, text=True).splitlines()[-1])


def main() -> None:
    """Run one case and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=("ranks", "memory"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    flags = parser.parse_args()
    if flags.case == "memory":
        print(json.dumps(measure_memory()))
    else:
        print(json.dumps(time_ranks(flags.model, flags.text, flags.runs)))


if __name__ == "__main__":
    main()
