"""Words and bytes behind tokens: counted against Python's own, whatever the tokenizer."""

from __future__ import annotations

import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, TokenizersBackend

from core.measures.counts import sampled_counts, scored_units, stream_counts, token_counts
from core.measures.likelihood import perplexity_per
from core.texts.content import documents, joined
from core.texts.sources import resolve_text
from core.texts.windows import Window, calibration_windows, evaluation_windows, token_stream

TEXT = "ka lo\n\n  mi ré😀n 中文 tus.\tshi ka\n"


@pytest.fixture(scope="module")
def byte_level(tiny_opt_dir):
    return AutoTokenizer.from_pretrained(tiny_opt_dir)


@pytest.fixture(scope="module")
def metaspace():
    """Spaces become part of words, as in LLaMA's tokenizer; other whitespace is unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator([TEXT, "ka lo mi " * 20], trainer)
    return TokenizersBackend(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("name", ["byte_level", "metaspace"])
@pytest.mark.parametrize("text", [TEXT, "a", " \n", "\u2028one\u00a0two ", "x" * 300])
def test_counts_sum_to_the_words_and_bytes_of_the_text(request, name, text):
    tokenizer = request.getfixturevalue(name)
    counts = token_counts(text, tokenizer)
    assert len(counts) == len(tokenizer(text)["input_ids"]) and (counts >= 0).all()
    assert counts.sum(0).tolist() == [len(text.split()), len(text.encode())]


def test_each_token_counts_what_it_stands_for(byte_level):
    text = "ka lo mi"
    ids = byte_level(text)["input_ids"]
    counts = token_counts(text, byte_level)
    assert counts[0].tolist() == [0, 0], "the special token in front stands for nothing"
    assert counts[:, 1].tolist()[1:] == [len(byte_level.decode([i])) for i in ids[1:]]
    begins = [byte_level.decode([i]).startswith(" ") or n == 0 for n, i in enumerate(ids[1:])]
    assert counts[1:, 0].tolist() == [int(begin) for begin in begins]


def test_counts_of_opt_tokens_are_those_of_wikitext(shared_dir):
    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "models" / "opt-tokenizer")
    path = shared_dir / "data" / "wikitext-2-raw" / "wiki.test.raw"
    text = resolve_text(str(path), "evaluation")
    counts = stream_counts(text, tokenizer)
    assert len(counts) == len(token_stream(text, tokenizer)) == 287_645
    # The WikiText paper counts 245,569 in this split, with an end for each of its 4,358 rows.
    words, rows = 245_569 - 4_358, 4_358
    assert counts.sum(0).tolist() == [words, len(joined(text).encode())]
    assert len(documents(text)) == rows


def test_windows_count_only_the_tokens_they_score():
    counts = torch.tensor([[1, 3], [0, 2], [1, 4], [1, 1], [0, 9]], dtype=torch.int32)
    assert scored_units(evaluation_windows(5, 2), counts) == (3, 10)
    assert scored_units([Window(0, 3, 3), Window(2, 5, 2)], counts) == (3, 19)
    assert scored_units(evaluation_windows(5, 3, 2), counts) == (3, 19)


def test_sampled_windows_count_their_own_documents(hub_texts, byte_level):
    text = resolve_text("c4:validation", "evaluation")
    windows = calibration_windows(text, byte_level, 6, 64, "documents", 0).flatten()
    counts = sampled_counts(text, byte_level, 6, 64, 0)
    assert counts.shape == (len(windows), 2)
    pieces = [byte_level.decode([i]).replace("</s>", "") for i in windows]
    assert counts[:, 1].tolist() == [len(piece.encode()) for piece in pieces]


def test_a_tokenizer_without_offsets_counts_nothing(byte_level, monkeypatch):
    monkeypatch.setattr(type(byte_level), "is_fast", False)
    assert token_counts(TEXT, byte_level) is None


def test_perplexity_per_unit_is_that_of_the_same_likelihood():
    assert perplexity_per(50, 3.0, 100) == pytest.approx(math.exp(6.0))
    assert perplexity_per(1, 30.0, 100) == math.inf
    assert math.isnan(perplexity_per(50, math.nan, 100))
    assert perplexity_per(None, 3.0, 100) is perplexity_per(0, 3.0, 100) is None
    assert perplexity_per(50, None, None) is None
