"""Peaks of memory while a model is loaded and saved, on each rank, two ways.

    python experiments/benches/measure_files.py [--blocks 10]

Makes a random LLaMA of about 1 GB in bfloat16 and removes it at the end. `whole` is the plain way:
`from_pretrained` on every rank, then sharding; and all weights gathered on rank 0, then written.
`slices` is the project's. The embedding is as small beside the blocks as that of a large model.
Each case runs in processes of its own. A minute or two on two cores.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from core.models.configs import quiet
from core.models.loading import open_model
from core.models.saving import save_model
from core.models.sharding import shard_
from core.models.weight_files import meta_model
from core.models.weight_writer import MAX_SHARD_SIZE, WeightWriter
from core.parallel import whole
from core.precision import DTYPES
from core.ranks import Ranks

WAYS = ("whole", "slices")
SAMPLER = """
import re, select, sys
peaks = {"RssAnon": 0, "RssFile": 0}
while not select.select([sys.stdin], [], [], 0.005)[0]:
    status = open(f"/proc/{sys.argv[1]}/status").read()
    for kind in peaks:
        now = int(re.search(kind + r":\\s+(\\d+)", status).group(1)) * 1024
        peaks[kind] = max(peaks[kind], now)
print(*peaks.values())
"""


def main() -> None:
    """Print a table of all cases; with `--rank` be one rank of one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=10, help="decoder blocks of 101 MB each")
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.rank is not None:
        run_rank(flags.directory, flags.rank, *flags.case)
        return
    with tempfile.TemporaryDirectory() as folder:
        size = write_model(Path(folder) / "model", flags.blocks)
        print(f"{size / 1e9:.2f} GB in files; in GB, the highest of the ranks\n")
        print("| ranks | dtype | way | load: own | load: mapped | s | save: own | s |")
        print("|---|---|---|---:|---:|---:|---:|---:|")
        for case in product(("1", "2"), ("bfloat16", "float32"), WAYS):
            print(f"| {' | '.join(case)} | {run_case(Path(folder), case)} |", flush=True)


def write_model(directory: Path, blocks: int) -> int:
    """Write random weights one at a time; return their bytes."""
    sizes = {"hidden_size": 2048, "intermediate_size": 5504, "num_attention_heads": 16}
    config = LlamaConfig(**sizes, num_hidden_layers=blocks, vocab_size=4_000)
    model = meta_model(config, torch.bfloat16)
    directory.mkdir()
    layout = dict(model.named_parameters())
    with WeightWriter(directory, layout, MAX_SHARD_SIZE) as writer:
        for name, meta in layout.items():
            writer.write(name, torch.empty_like(meta, device="cpu").uniform_(-0.05, 0.05))
    model.config.save_pretrained(directory)
    return sum(meta.nbytes for meta in layout.values())


def run_case(folder: Path, case: tuple[str, ...]) -> str:
    """Run all ranks of a case; return its cells."""
    command = [sys.executable, __file__, "--directory", str(folder), "--case", *case]
    ranks = [
        subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(int(case[0]))
    ]
    outputs = [process.communicate()[0].split() for process in ranks]
    found = [max(values) for values in zip(*(map(float, out) for out in outputs), strict=True)]
    return " | ".join(f"{value:.2f}" for value in found)


def run_rank(folder: Path, rank: int, world: str, dtype: str, way: str) -> None:
    """Load and save; print peaks in GB above the memory before, and seconds."""
    torch.set_num_threads(1)
    if world != "1":
        meet = f"file://{folder / f'{dtype}-{way}'}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=int(world))
    ranks = Ranks.current()
    with peaks() as loading:
        model = load(folder / "model", DTYPES[dtype], way, ranks)
    with peaks() as saving:
        save(folder / "saved", model, way, ranks)
    print(*loading, saving[0], saving[2])


def load(directory: Path, dtype: torch.dtype, way: str, ranks: Ranks) -> PreTrainedModel:
    """Return the model on one rank, or its shards."""
    if way == "slices":
        files = open_model(directory, dtype)
        shard_(files.model, ranks, read=files.read)
        return files.model
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    shard_(model, ranks)
    return model


def save(directory: Path, model: PreTrainedModel, way: str, ranks: Ranks) -> None:
    """Write the weights, and remove them."""
    directory.mkdir(exist_ok=True)
    if way == "slices":
        save_model(directory, model, {}, ranks)
    else:
        named = {name: whole(p.detach()) for name, p in model.named_parameters()}
        if ranks.rank == 0:
            save_file(named, directory / "model.safetensors")
    ranks.barrier()


@contextmanager
def peaks() -> Iterator[list[float]]:
    """Sample memory; the list gets GB of own and of mapped memory, and seconds."""
    status = Path("/proc/self/status").read_text()
    before = [int(re.findall(kind + r":\s+(\d+)", status)[0]) for kind in ("RssAnon", "RssFile")]
    pid = re.findall(r"Pid:\s+(\d+)", status)[0]
    sampler = subprocess.Popen(
        [sys.executable, "-c", SAMPLER, pid], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    found: list[float] = []
    start = time.perf_counter()
    yield found
    seconds = time.perf_counter() - start
    most = sampler.communicate(b"\n")[0].split()
    found += [(int(b) - 1024 * a) / 1e9 for a, b in zip(before, most, strict=True)] + [seconds]


if __name__ == "__main__":
    main()
