"""Bench of streaming: memory for a model of 13 GB, and seconds beside the same model in memory.

    python experiments/benches/bench_streaming.py memory [--blocks 128] [--folder DIR]
    python experiments/benches/bench_streaming.py seconds [--blocks 6] [--runs 3]

Models are random and LLaMA-shaped, written block by block and deleted afterwards. Each is pruned
by SparseGPT at 0.5 on 4 windows of 512 tokens and evaluated on 4 others, in a process of its own.
Of that process this one samples RssAnon: mapped pages of files do not count.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from core.activations import Calibration
from core.config import PruneConfig
from core.measures.perplexity import evaluate
from core.models.loading import load_model, open_model
from core.models.model_writer import ModelWriter
from core.models.residence import Streamed
from core.models.saving import save_model, save_settings
from core.models.sources import WEIGHTS_INDEX
from core.models.weight_files import meta_model
from core.precision import DTYPES, inference_dtype
from core.pruners import PRUNERS
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.texts.windows import evaluation_windows

VOCAB, COUNT, LENGTH = 32_000, 4, 512
SAMPLE_SECONDS = 0.05


def make_model(directory: Path, hidden: int, blocks: int) -> float:
    """Write a random LLaMA-shaped model in bfloat16, one block a file; return its bytes."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=11 * hidden // 4,
        num_hidden_layers=blocks,
        num_attention_heads=hidden // 128,
        max_position_embeddings=2048,
        dtype=torch.bfloat16,
    )
    directory.mkdir()
    config.save_pretrained(directory)
    generator, parts = torch.Generator().manual_seed(0), dict[str, dict[str, torch.Tensor]]()
    for name, weight in meta_model(config, torch.bfloat16).named_parameters():
        found = re.search(r"layers\.\d+", name)
        parts.setdefault(found[0] if found else "root", {})[name] = weight
    weight_map, size = {}, 0
    for part, weights in parts.items():
        made = {name: random_like(weight, generator) for name, weight in weights.items()}
        save_file(made, directory / f"{part}.safetensors", metadata={"format": "pt"})
        weight_map |= dict.fromkeys(made, f"{part}.safetensors")
        size += sum(weight.nbytes for weight in made.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / WEIGHTS_INDEX).write_text(json.dumps(index))
    return float(size)


def random_like(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a random matrix, or ones for the scale of a norm."""
    made = torch.ones(weight.shape, dtype=weight.dtype)
    return made if weight.dim() == 1 else made.normal_(0, 0.02, generator=generator)


def prune_and_evaluate(directory: Path, output: Path, streams: bool) -> dict[str, object]:
    """Prune a model into a new directory, evaluate what is there; return seconds and perplexity."""
    start, ranks = time.perf_counter(), Ranks.current()
    dtype = DTYPES[inference_dtype("auto", "bfloat16", ranks.device)]
    windows = torch.randint(VOCAB, (2 * COUNT, LENGTH), generator=torch.Generator().manual_seed(1))
    pruner, calibration = PRUNERS["sparsegpt"](PruneConfig()), Calibration(windows[:COUNT], COUNT)
    output.mkdir()
    if streams:
        files = open_model(directory, dtype)
        place = Streamed(files, ranks)
        place.write_to(ModelWriter(output, files.model))
        prune_(files.model, pruner, Target(0.5), ranks, calibration)
        place.finish(files.model)
        save_settings(output, files.model)
    else:
        model = load_model(directory, dtype)
        masks = prune_(model, pruner, Target(0.5), ranks, calibration).masks
        save_model(output, model, masks, ranks)
        del model, masks
    pruned = time.perf_counter()
    if streams:
        files = open_model(output, dtype)
        Streamed(files, ranks)
        model = files.model
    else:
        model = load_model(output, dtype)
    text = windows[COUNT:].flatten()
    parts = evaluation_windows(len(text), LENGTH, None, None)
    found = evaluate(model, text, parts, ranks, micro_batch=COUNT)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "perplexity": found.perplexity,
        "prune_seconds": pruned - start,
        "evaluate_seconds": time.perf_counter() - pruned,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time(),
    }


def in_process(directory: Path, output: Path, streams: bool) -> dict[str, object]:
    """Run one case in a process of its own; return its figures and its peak of RssAnon."""
    way = "streamed" if streams else "whole"
    command = [sys.executable, __file__, "case", way, str(directory), str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        status, peak = Path(f"/proc/{process.pid}/status"), 0
        while process.poll() is None:
            found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
            peak = max(peak, int(found[1]) if found else 0)
            time.sleep(SAMPLE_SECONDS)
        assert process.stdout is not None and process.returncode == 0, "the case failed"
        figures = json.loads(process.stdout.read().splitlines()[-1])
    disk = sum(path.stat().st_size for path in output.iterdir())
    return {"way": way, **figures, "anonymous_gb": peak * 1024 / 1e9, "written_gb": disk / 1e9}


def bench_memory(folder: Path, hidden: int, blocks: int) -> None:
    """Print the peak of a streamed model."""
    size = make_model(folder / "model", hidden, blocks)
    block = (size - 2 * 2 * VOCAB * hidden) / blocks
    print(f"model of {size / 1e9:.2f} GB in bfloat16, {blocks} blocks of {block / 1e9:.2f} GB")
    print(json.dumps(in_process(folder / "model", folder / "pruned", True)), flush=True)


def bench_seconds(folder: Path, hidden: int, blocks: int, runs: int) -> None:
    """Print the medians of the ratios of streamed to whole, of neighbouring runs."""
    make_model(folder / "model", hidden, blocks)
    ratios, perplexities = [], set()
    for turn in range(runs):
        pair = {}
        for streams in (False, True) if turn % 2 else (True, False):
            pair[streams] = in_process(
                folder / "model", folder / f"pruned-{turn}-{streams}", streams
            )
            print(json.dumps(pair[streams]), flush=True)
            perplexities.add(pair[streams]["perplexity"])
        ratios.append([pair[True][name] / pair[False][name] for name in ("seconds", "cpu_seconds")])
    equal = "equal" if len(perplexities) == 1 else "DIFFERENT"
    found = ", ".join(f"{statistics.median(each):.3f}" for each in zip(*ratios))
    print(f"streamed / whole, seconds and CPU seconds: {found} (medians); perplexities are {equal}")


def main() -> None:
    """Run one bench, or the case that it starts in a process of its own."""
    if sys.argv[1:2] == ["case"]:
        way, directory, output = sys.argv[2:]
        print(json.dumps(prune_and_evaluate(Path(directory), Path(output), way == "streamed")))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", choices=("memory", "seconds"))
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--blocks", type=int, help="128 for memory, 6 for seconds")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on a disk with room for the model twice")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        if flags.bench == "memory":
            bench_memory(Path(folder), flags.hidden, flags.blocks or 128)
        else:
            bench_seconds(Path(folder), flags.hidden, flags.blocks or 6, flags.runs)


if __name__ == "__main__":
    main()
