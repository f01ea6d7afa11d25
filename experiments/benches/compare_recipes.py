"""Perplexity on validation text after training recipes, at equal tokens, on the embedded model.

    python experiments/benches/compare_recipes.py "reconstruct 1e-3 8" "reconstruct 2e-3 1" \
        "distill 2e-3 1" "adaptive auto 1" "reconstruct*0.5 4e-3 1, distill*0.5 2e-3 1" \
        [--method alps] [--regime iterative] [--sparsities 0.7 0.9] [--tokens 262144] [--test]

A recipe is a list of phases, `OBJECTIVE[*SHARE] RATE WINDOWS`: the objective (`next_token`,
`distill`: KL to the dense model alone at temperature 1, `reconstruct` or `adaptive`), its share of
the round's tokens (32,768 by default), the peak learning rate (`auto` for the one that `adaptive`
gives this objective), and the windows of 256 tokens in an optimizer step. Each phase has a warm-up
and a decay of its own. Training computes in float32. The test text is read only with `--test`, for
a recipe that was chosen.
"""

from __future__ import annotations

import argparse
import copy
import functools
import logging
import time
from dataclasses import dataclass, replace

from plain_loop import MICRO_BATCH, TOKENS, PlainLoop
from torch import Tensor
from transformers import PreTrainedModel

from core.config import FinetuneConfig
from core.models.mask_files import Masks
from core.models.sources import EMBEDDED, EMBEDDED_DIR
from core.models.tokenizers import load_tokenizer
from core.pruners import PRUNERS
from core.texts.sources import resolve_text
from core.texts.windows import token_stream
from core.training.adaptive import DISTILL, RECONSTRUCT
from core.training.finetune import finetune_
from core.training.loop import Loop
from core.training_config import Training

VALIDATION_TOKENS = 16_384
OBJECTIVES = {
    "next_token": {},
    "distill": {"distill": True, "distill_mix": 1.0, "distill_temperature": 1.0},
    "reconstruct": {"objective": "reconstruct"},
    "adaptive": {"objective": "adaptive"},
}


@dataclass(frozen=True)
class Phase:
    """One part of a recipe."""

    training: Training
    share: float
    windows: int

    @classmethod
    def parse(cls, text: str) -> Phase:
        """Return a phase from `OBJECTIVE[*SHARE] RATE WINDOWS`."""
        name, rate, windows = text.split()
        objective, _, share = name.partition("*")
        lr = None if rate == "auto" else float(rate)
        training = Training(lr=lr, **OBJECTIVES[objective])
        return cls(training, float(share or 1), int(windows))


class Bench(PlainLoop):
    """The plain loop with a method and a validation text, and models pruned so far."""

    def __init__(self, method: str, tokens: int) -> None:
        """Load the model and tokenise its texts; a round has so many tokens."""
        super().__init__(FinetuneConfig(tokens=tokens))
        self.method = method
        text, tokenizer = resolve_text(EMBEDDED, "validation"), load_tokenizer(EMBEDDED_DIR)
        self.validation = token_stream(text, tokenizer)[:VALIDATION_TOKENS]
        self.oneshot = functools.cache(self.prune_dense)

    def prune_dense(self, sparsity: float) -> tuple[PreTrainedModel, Masks]:
        """Return the dense model pruned at once, and its masks."""
        model = copy.deepcopy(self.dense)
        return model, self.prune(model, self.method, sparsity, {})

    def follow_(
        self, model: PreTrainedModel, masks: Masks, index: int, recipe: list[Phase]
    ) -> None:
        """Train a model for one round, each phase on windows of its own.

        The first round begins a branch.
        """
        self.distilled &= index > 1
        windows = self.windows(index)
        loop, begin = Loop(self.ranks, micro_batch=MICRO_BATCH), 0
        for phase in recipe:
            end = begin + round(phase.share * len(windows))
            mine = windows[begin:end]
            training = self.recipe(model, mine, phase.training)
            if training is not None:
                self.distilled |= training.distill
                finetune_(model, masks, mine.split(phase.windows), training, loop, self.dense)
            begin = end

    def recipe(self, model: PreTrainedModel, windows: Tensor, given: Training) -> Training | None:
        """Return the settings of a phase, with the rate of `adaptive` where none is given."""
        if given.adapts or given.lr is not None:
            return super().recipe(model, windows, given)
        start = self.start_of(model, windows)
        rate = DISTILL if given.distill else RECONSTRUCT
        return replace(given, lr=rate.at(start.gap, start.hidden_size))

    def compare(
        self, regime: str, sparsities: list[float], recipe: list[Phase], stream: Tensor
    ) -> list[float]:
        """Return the perplexity at each sparsity."""
        found: list[float] = []
        for index, sparsity in enumerate(sparsities, start=1):
            if regime == "finetune" or index == 1:
                model, masks = copy.deepcopy(self.oneshot(sparsity))
            else:
                masks = self.prune(model, self.method, sparsity, masks)
            self.follow_(model, masks, 1 if regime == "finetune" else index, recipe)
            found.append(self.perplexity(model, stream))
        return found


def main() -> None:
    """Print a row of a table for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--method", default="sparsegpt", choices=list(PRUNERS))
    parser.add_argument("--regime", default="finetune", choices=["finetune", "iterative"])
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens of a round")
    parser.add_argument("--test", action="store_true")
    flags = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    bench = Bench(flags.method, flags.tokens)
    stream = bench.test if flags.test else bench.validation
    pruned = [bench.oneshot(sparsity)[0] for sparsity in flags.sparsities]
    before = [bench.perplexity(model, stream) for model in pruned]
    gaps = [bench.start_of(model, bench.windows(1)).gap for model in pruned]
    print(f"| {flags.method} {flags.regime} | {' | '.join(map(str, flags.sparsities))} | seconds |")
    print(f"|---{'|---:' * (len(before) + 1)}|")
    print(f"| untrained, pruned at once | {' | '.join(f'{p:.2f}' for p in before)} | |")
    print(f"| its gap | {' | '.join(f'{gap:.3f}' for gap in gaps)} | |", flush=True)
    for text in flags.recipes:
        start = time.perf_counter()
        recipe = [Phase.parse(part) for part in text.split(",")]
        found = bench.compare(flags.regime, flags.sparsities, recipe, stream)
        seconds = time.perf_counter() - start
        print(f"| {text} | {' | '.join(f'{p:.2f}' for p in found)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
