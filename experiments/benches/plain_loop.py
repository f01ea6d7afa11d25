"""The for-loop that a user would write in place of the default sweep, in one process.

    python experiments/benches/plain_loop.py                 # all 51 cells of the default sweep
    python experiments/benches/plain_loop.py --sparsities 0.5

It uses core as a library: no Ray, no store, nothing that resumes. It shares what a plain loop
shares: an iterative branch goes on from its last sparsity. Each pruned model is evaluated before
and after it is trained, as the rows of a sweep tell both. `measure_orchestration.py` times the loop
beside the command. Prints a line for each cell, and at the end the seconds of each kind of work as
JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.activations import Calibration
from core.config import FinetuneConfig, PruneConfig
from core.measures.gap import mean_gap
from core.measures.perplexity import evaluate
from core.models.loading import load_model
from core.models.mask_files import Masks
from core.models.sources import EMBEDDED, resolve_model
from core.models.tokenizers import load_tokenizer
from core.precision import DTYPES, training_dtype
from core.pruners import Pruner, make_pruner
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.texts.sources import resolve_text
from core.texts.windows import (
    calibration_windows,
    evaluation_windows,
    token_stream,
    training_windows,
)
from core.training.adaptive import NO_GAP, Start, adapted, gap_windows
from core.training.finetune import finetune_
from core.training.loop import Loop
from core.training_config import Training

SEQ_LEN, SAMPLES, TOKENS, BATCH_TOKENS, MICRO_BATCH, SEED = 256, 128, 32_768, 2_048, 8, 0
"""The default sweep's settings for the embedded model."""


class PlainLoop:
    """Texts, the dense model and the seconds spent so far."""

    def __init__(self, finetune: FinetuneConfig) -> None:
        """Load the dense model and tokenise all texts."""
        self.finetune, self.seconds = finetune, Counter[str]()
        self.distilled = False
        """True if the branch has learned the dense model's predictions."""
        self.ranks = Ranks.current(torch.device("cpu"))
        with self.timed("texts"):
            source = resolve_model(EMBEDDED)
            tokenizer = load_tokenizer(source)
            text = resolve_text(EMBEDDED, "calibration")
            self.calibration = calibration_windows(
                text, tokenizer, num_samples=SAMPLES, seq_len=SEQ_LEN, sampling=None, seed=SEED
            )
            self.train = token_stream(resolve_text(EMBEDDED, "finetune"), tokenizer)
            self.test = token_stream(resolve_text(EMBEDDED, "evaluation"), tokenizer)
        self.dense = load_model(source, torch.float32)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Count the seconds of the body for a kind of work."""
        start = time.perf_counter()
        yield
        self.seconds[kind] += time.perf_counter() - start

    def prune(self, model: PreTrainedModel, method: str, sparsity: float, masks: Masks) -> Masks:
        """Prune a model in place; return its masks."""
        return self.prune_by(make_pruner(method, PruneConfig()), model, Target(sparsity), masks)

    def prune_by(
        self, pruner: Pruner, model: PreTrainedModel, target: Target, masks: Masks
    ) -> Masks:
        """Prune a model in place by any pruner; return its masks."""
        with self.timed("prune"):
            calibration = Calibration(self.calibration, MICRO_BATCH, torch.float32)
            return prune_(model, pruner, target, self.ranks, calibration, masks or None).masks

    def windows(self, index: int) -> Tensor:
        """Return the training windows of a round."""
        count = (self.finetune.tokens or TOKENS) // SEQ_LEN
        return training_windows(self.train, count, SEQ_LEN, SEED, index)

    def train_(self, model: PreTrainedModel, masks: Masks, index: int) -> None:
        """Train a model in place under its masks, for one round; the first begins a branch."""
        self.distilled &= index > 1
        with self.timed("finetune"):
            windows = self.windows(index)
            dtype = DTYPES[training_dtype("auto", self.ranks.device)]
            loop = Loop(self.ranks, micro_batch=MICRO_BATCH, compute_dtype=dtype)
            training = self.recipe(model, windows, self.finetune.training())
            if training is not None:
                self.distilled |= training.distill
                size = 1 if self.finetune.adapts else BATCH_TOKENS // SEQ_LEN
                teacher = self.dense if training.needs_teacher else None
                finetune_(model, masks, windows.split(size), training, loop, teacher)

    def recipe(self, model: PreTrainedModel, windows: Tensor, given: Training) -> Training | None:
        """Return the settings of a round; None if the dense model has nothing to teach."""
        if not given.adapts:
            return given
        start = self.start_of(model, windows)
        return None if start.gap < NO_GAP else adapted(given, start)

    def start_of(self, model: PreTrainedModel, windows: Tensor) -> Start:
        """Return the start of a round on these windows; its gap is measured."""
        seen = gap_windows(windows)
        gap = mean_gap(model, self.dense, seen, self.ranks, micro_batch=MICRO_BATCH)
        return Start(gap, model.config.hidden_size, windows.numel(), self.distilled)

    def evaluate(self, model: PreTrainedModel, cell: str) -> None:
        """Print the perplexity of a model."""
        with self.timed("evaluate"):
            found = self.perplexity(model, self.test)
        print(f"{cell:<28} {found:8.2f}", flush=True)

    def perplexity(self, model: PreTrainedModel, stream: Tensor) -> float:
        """Return the perplexity of a model on a text."""
        windows = evaluation_windows(len(stream), SEQ_LEN)
        return evaluate(model, stream, windows, self.ranks, micro_batch=MICRO_BATCH).perplexity

    def run_dense(self, rounds: int) -> None:
        """Run the dense model and its trained control."""
        self.evaluate(self.dense, "dense")
        model = copy.deepcopy(self.dense)
        for i in range(1, rounds + 1):
            self.train_(model, {}, i)
            self.evaluate(model, f"dense finetune {i}")

    def run(self, methods: list[str], sparsities: list[float]) -> None:
        """Run every method, regime and sparsity."""
        for method in methods:
            for sparsity in sparsities:
                model = copy.deepcopy(self.dense)
                masks = self.prune(model, method, sparsity, {})
                self.evaluate(model, f"{method} oneshot {sparsity}")
                self.train_(model, masks, 1)
                self.evaluate(model, f"{method} finetune {sparsity}")
            model, masks = copy.deepcopy(self.dense), {}
            for i, sparsity in enumerate(sparsities, start=1):
                masks = self.prune(model, method, sparsity, masks)
                if i > 1:  # The first is that of the other regimes.
                    self.evaluate(model, f"{method} iterative {sparsity}, untrained")
                self.train_(model, masks, i)
                self.evaluate(model, f"{method} iterative {sparsity}")


def main() -> None:
    """Run the loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["magnitude", "wanda", "sparsegpt"])
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.3, 0.5, 0.7, 0.8, 0.9])
    parser.add_argument("--no-dense", action="store_true", help="leave out dense and its control")
    parser.add_argument("--finetune.objective", dest="objective", default="adaptive")
    flags = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    loop = PlainLoop(FinetuneConfig(objective=flags.objective))
    if not flags.no_dense:
        loop.run_dense(len(flags.sparsities))
    loop.run(flags.methods, flags.sparsities)
    print(json.dumps({kind: round(seconds, 2) for kind, seconds in loop.seconds.items()}))


if __name__ == "__main__":
    main()
