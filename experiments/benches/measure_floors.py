"""Seconds of the default sweep's stages beside the seconds of their plain products, in one run.

    python experiments/benches/measure_floors.py [--repeats 5]

A floor is the time that the same matrix products, attention and losses take when nothing else is
done: no norms, activations, masks, optimizer, copies or checks. Stage and floor are timed in turn;
medians are printed. The embedded model, two minutes on two cores.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from plain_loop import MICRO_BATCH, SAMPLES, SEQ_LEN, TOKENS
from torch import Tensor
from torch.nn import functional

from core.activations import Calibration
from core.config import FinetuneConfig, PruneConfig
from core.measures.perplexity import evaluate
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.models.sources import EMBEDDED, resolve_model
from core.precision import DTYPES, training_dtype
from core.pruners import make_pruner
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.texts.windows import evaluation_windows
from core.training.finetune import finetune_
from core.training.loop import Loop

EVALUATED = 58_880
"""Tokens of the embedded test text."""
STATISTICS = {"magnitude": 0, "wanda": 0, "sparsegpt": 1, "alps": 1}
"""Products of inputs with themselves that a method needs for each input."""


@dataclass
class Products:
    """The plain operations of one micro-batch of a model."""

    model: torch.nn.Module
    dtype: torch.dtype
    learns: bool = False
    inputs: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make random inputs of the right shapes."""
        config, tokens = self.model.config, MICRO_BATCH * SEQ_LEN  # pyright: ignore
        self.weights = [matrix.read().detach() for matrix in prunable_matrices(self.model).values()]
        self.head = self.model.get_output_embeddings().weight.detach()  # pyright: ignore
        for weight in [*self.weights, self.head]:
            cols = weight.shape[1]
            self.inputs[cols] = torch.randn(tokens, cols, dtype=self.dtype)
        heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.blocks = config.num_hidden_layers
        self.heads = torch.randn(MICRO_BATCH, heads, SEQ_LEN, width, dtype=self.dtype)
        self.targets = torch.randint(0, len(self.head), (tokens,))

    def product(self, weight: Tensor) -> Tensor:
        """Multiply inputs with a weight; also backward, into both, where the model learns."""
        weight, inputs = weight.to(self.dtype), self.inputs[weight.shape[1]]
        outputs = functional.linear(inputs, weight)
        if self.learns:
            outputs @ weight
            outputs.T @ inputs
        return outputs

    def attend(self) -> None:
        """Attend causally once a block."""
        heads = self.heads.clone().requires_grad_(self.learns)
        with torch.set_grad_enabled(self.learns):
            out = functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        if self.learns:
            out.sum().backward()

    def forward(self, head: bool = True) -> None:
        """Do all operations of one micro-batch."""
        for weight in self.weights:
            self.product(weight)
        for _ in range(self.blocks):
            self.attend()
        if head:
            logits = self.product(self.head).float().requires_grad_(self.learns)
            loss = functional.cross_entropy(logits, self.targets)
            if self.learns:
                loss.backward()

    def statistics(self) -> None:
        """Multiply the input of each group of matrices with itself."""
        for cols in [len(self.head[0])] * 3 + [max(self.inputs)]:
            for _ in range(self.blocks):
                self.inputs[cols].T @ self.inputs[cols]


@dataclass
class Bench:
    """Stages of the embedded model, and their floors."""

    repeats: int

    def __post_init__(self) -> None:
        """Load the model and draw tokens."""
        self.dense = load_model(resolve_model(EMBEDDED), torch.float32)
        self.ranks = Ranks.current(torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        vocabulary = self.dense.config.vocab_size
        self.tokens = torch.randint(4, vocabulary, (EVALUATED,), generator=generator)

    def compare(self, name: str, stage: Callable[[], object], floor: Callable[[], object]) -> None:
        """Print the median seconds of a stage and of its floor, timed in turn."""
        found: list[tuple[float, float]] = []
        for _ in range(self.repeats + 1):  # The first turn warms up.
            start = time.perf_counter()
            stage()
            middle = time.perf_counter()
            floor()
            found.append((middle - start, time.perf_counter() - middle))
        mine, least = (statistics.median(column) for column in zip(*found[1:]))
        print(f"| {name} | {mine:.2f} | {least:.2f} | {mine / least:.2f} |", flush=True)

    def evaluate(self) -> None:
        """Compare an evaluation."""
        windows = evaluation_windows(EVALUATED, SEQ_LEN)
        plain, count = Products(self.dense, torch.float32), EVALUATED // SEQ_LEN // MICRO_BATCH
        self.compare(
            "evaluate",
            lambda: evaluate(self.dense, self.tokens, windows, self.ranks, micro_batch=MICRO_BATCH),
            lambda: [plain.forward() for _ in range(count)],
        )

    def train(self) -> None:
        """Compare a round of training."""
        dtype = DTYPES[training_dtype("auto", self.ranks.device)]
        loop = Loop(self.ranks, micro_batch=MICRO_BATCH, compute_dtype=dtype)
        batches = self.tokens[:TOKENS].view(-1, SEQ_LEN).split(MICRO_BATCH)
        plain, config = Products(self.dense, dtype, learns=True), FinetuneConfig()
        self.compare(
            f"finetune, {dtype}".replace("torch.", ""),
            lambda: finetune_(copy.deepcopy(self.dense), {}, batches, config, loop),
            lambda: [plain.forward() for _ in batches],
        )

    def prune(self, method: str) -> None:
        """Compare a prune stage with its forward passes and statistics; solves are in no floor.

        Each block runs twice: for its statistics, and pruned for the inputs of the next.
        """
        samples = self.tokens[: SAMPLES * SEQ_LEN].view(-1, SEQ_LEN)
        plain, turns = Products(self.dense, torch.float32), range(SAMPLES // MICRO_BATCH)

        def stage() -> None:
            calibration = Calibration(samples, MICRO_BATCH, torch.float32)
            pruner = make_pruner(method, PruneConfig())
            prune_(copy.deepcopy(self.dense), pruner, Target(0.5), self.ranks, calibration, None)

        def floor() -> None:
            for _ in turns:
                plain.forward(head=False)
                plain.forward(head=False)
                for _ in range(STATISTICS[method]):
                    plain.statistics()

        self.compare(f"prune {method} 0.5", stage, floor)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    bench = Bench(parser.parse_args().repeats)
    print(f"{torch.get_num_threads()} threads\n")
    print("| stage | seconds | floor | ratio |\n|---|---:|---:|---:|")
    with torch.no_grad():
        bench.evaluate()
    bench.train()
    for method in STATISTICS:
        if method != "magnitude":  # It reads no text.
            bench.prune(method)


if __name__ == "__main__":
    main()
