"""Baseline of n-grams, which only count, beside the embedded model.

    python experiments/embedded/ngram_baseline.py [--model DIR] [--tokenizer DIR] [--order 5]

Prints the perplexity of a unigram, of an interpolated modified Kneser-Ney 5-gram and of the
embedded model on the validation and test parts. Takes half a minute on one core.

The n-grams are counted on the token stream that the model was trained on: every train document
begins with `</s>`, and documents follow each other. A held-out part is its documents, joined with a
blank line and tokenized as one stream. It is cut into windows of the model's maximum length,
without the tail. All three models are scored on the same tokens: every token of a window but its
first. The n-gram may look back across the border of a window and the model may not, so the n-gram
has the easier task.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from train_embedded_model import ASSETS, embedded
from transformers import AutoModelForCausalLM, AutoTokenizer

# Discounts if the counts of counts do not define them (as KenLM's --discount_fallback).
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


def discounts(counts: np.ndarray) -> np.ndarray:
    """Return the discounts of n-grams that are counted once, twice, and three times or more.

    Chen and Goodman (1998), equation 26: with `n_c` the number of n-grams counted `c` times and
    `Y = n_1 / (n_1 + 2 n_2)`, `D_c = c - (c + 1) Y n_{c+1} / n_c`.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float)
    if not n.all():
        return np.array(FALLBACK_DISCOUNTS)
    y, c = n[0] / (n[0] + 2 * n[1]), np.arange(1, 4)
    found = c - (c + 1) * y * n[1:] / n[:3]
    return found if np.all((found >= 0) & (found <= c)) else np.array(FALLBACK_DISCOUNTS)


def lookup(keys: np.ndarray, values: np.ndarray, queries: np.ndarray, absent: float) -> np.ndarray:
    """Return the value of each query among sorted keys, or `absent`."""
    at = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[at] == queries, values[at], absent)


@dataclass(frozen=True)
class Order:
    """The n-grams of one length: p(w | h) = share(h w) + backoff(h) p(w | h without its first).

    A key is an n-gram as a number whose digits are its ids, in base V, the vocabulary's size. So
    `key // V` is its context, and `key % V ** n` its last n words.
    """

    keys: np.ndarray
    shares: np.ndarray
    contexts: np.ndarray
    backoffs: np.ndarray
    discounts: np.ndarray

    @classmethod
    def fit(cls, keys: np.ndarray, counts: np.ndarray, vocab_size: int) -> Order:
        """Fit to sorted distinct n-grams and their counts, or continuation counts."""
        per_count = discounts(counts)
        taken = per_count[np.minimum(counts, 3) - 1]
        contexts, first, size = np.unique(keys // vocab_size, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        shares = (counts - taken) / np.repeat(totals, size)
        return cls(keys, shares, contexts, np.add.reduceat(taken, first) / totals, per_count)


class KneserNey:
    """Interpolated modified Kneser-Ney: raw counts for the longest order, else continuation counts.

    A continuation count is the number of distinct tokens that were seen before an n-gram. Unigrams
    back off to the uniform distribution, so every token has a probability after every context.
    """

    def __init__(self, ids: np.ndarray, vocab_size: int, order: int) -> None:
        if vocab_size**order >= 2**63:
            raise ValueError(f"--order {order}: {vocab_size}-token n-grams must fit 63 bits")
        self.vocab_size = vocab_size
        keys, counts = self._distinct(ids, order)
        self.orders = [Order.fit(keys, counts, vocab_size)]
        for n in range(order - 1, 0, -1):
            longer, _ = self._distinct(ids, n + 1)
            keys, counts = np.unique(longer % vocab_size**n, return_counts=True)
            self.orders.insert(0, Order.fit(keys, counts, vocab_size))

    def _distinct(self, ids: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        grams = np.lib.stride_tricks.sliding_window_view(ids, n)
        return np.unique(self._keys(grams), return_counts=True)

    def _keys(self, grams: np.ndarray) -> np.ndarray:
        return grams @ self.vocab_size ** np.arange(grams.shape[1])[::-1]

    def probabilities(self, grams: np.ndarray) -> np.ndarray:
        """Return the probability of each row's last token after the tokens before it.

        Args:
            grams: ids [num, order]. -1 in front means that there is no token, for example at the
                beginning of a stream; then the longest order that the row fills is used.
        """
        p = np.full(len(grams), 1 / self.vocab_size)
        for n, order in enumerate(self.orders, 1):
            full = grams[:, -n] >= 0
            keys = self._keys(grams[full, -n:])
            backoff = lookup(order.contexts, order.backoffs, keys // self.vocab_size, 1.0)
            p[full] = lookup(order.keys, order.shares, keys, 0.0) + backoff * p[full]
        return p

    def grams_before(self, ids: np.ndarray) -> np.ndarray:
        """Return each token with the `order - 1` tokens before it: [len(ids), order]."""
        order = len(self.orders)
        padded = np.concatenate([np.full(order - 1, -1), ids])
        return np.lib.stride_tricks.sliding_window_view(padded, order)


def check_normalised(model: KneserNey, ids: np.ndarray, num_contexts: int = 64) -> float:
    """Return how far the probabilities of a whole vocabulary are from 1; 1e-6 at most.

    The contexts come from a stream, its beginning included, and from random tokens, most of which
    were never seen together.
    """
    at = np.linspace(0, len(ids) - 1, num_contexts).astype(int)
    seen = model.grams_before(ids)[at, :-1]
    unseen = np.random.default_rng(0).integers(model.vocab_size, size=seen.shape)
    worst, words = 0.0, np.arange(model.vocab_size)
    for context in np.concatenate([seen, unseen]):
        grams = np.column_stack([np.tile(context, (len(words), 1)), words])
        p = model.probabilities(grams)
        assert p.min() > 0, f"impossible tokens after {context}"
        worst = max(worst, abs(p.sum() - 1))
    assert worst < 1e-6, f"probabilities sum to 1 only within {worst}"
    return worst


@torch.no_grad()
def model_nll(model: torch.nn.Module, windows: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood in nats of every token of a window but its first."""
    losses = []
    for batch in torch.from_numpy(windows).split(16):
        logits = model(batch).logits[:, :-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits.mT, batch[:, 1:], reduction="none"))
    return torch.cat(losses).numpy()


def main() -> None:
    """Count the train part, check the distribution and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ASSETS / "model")
    parser.add_argument("--tokenizer", type=Path, help="default: the model's directory")
    parser.add_argument("--order", type=int, default=5, choices=range(1, 6))
    args = parser.parse_args()
    if not args.model.is_dir():
        parser.error(f"--model {args.model}: no such directory; train_embedded_model.py writes one")
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer or args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    vocab_size, window = len(tokenizer), model.config.max_position_embeddings
    if vocab_size != model.config.vocab_size:
        parser.error(f"tokenizer of {vocab_size} ids, model of {model.config.vocab_size}")

    encoded = tokenizer(embedded("train"), verbose=False).input_ids
    train = np.fromiter((i for ids in encoded for i in ids), np.int64)
    unigram = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    kneser_ney = KneserNey(train, vocab_size, args.order)
    print(f"train: {len(train)} tokens, vocabulary {vocab_size}, windows of {window}")
    for n, order in enumerate(kneser_ney.orders, 1):
        print(f"  {len(order.keys):8} distinct {n}-grams, discounts {order.discounts.round(3)}")

    for part in ("validation", "test"):
        ids = np.array(tokenizer("\n\n".join(embedded(part)), verbose=False).input_ids)
        worst, grams = check_normalised(kneser_ney, ids), kneser_ney.grams_before(ids)
        windows = ids[: len(ids) // window * window].reshape(-1, window)
        predicted = np.arange(windows.size).reshape(windows.shape)[:, 1:].ravel()
        nll = {
            "unigram (add one)": -np.log(unigram[ids[predicted]]),
            f"Kneser-Ney {args.order}-gram": -np.log(kneser_ney.probabilities(grams[predicted])),
            "embedded model": model_nll(model, windows),
        }
        print(f"{part}: {len(predicted)} predicted of {len(ids)} tokens, sums 1 ± {worst:.0e}")
        for name, values in nll.items():
            mean = values.mean(dtype=np.float64)
            print(f"  {name:20} nll {mean:.4f} perplexity {math.exp(mean):8.2f}")


if __name__ == "__main__":
    main()
