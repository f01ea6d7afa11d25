"""Training windows of the embedded text, from their own pieces, equal those of all tokens."""

import dataclasses
import json
import random

import pytest
import torch

from core.models.sources import EMBEDDED_DIR
from core.models.tokenizers import load_tokenizer
from core.texts import known_pieces
from core.texts.content import joined
from core.texts.known_pieces import KnownPieces, count_pieces
from core.texts.sources import resolve_text
from core.texts.tokenization import cut, encode_pieces, tokenize
from core.texts.windows import training_starts, windows_at

SEQ_LEN = 256


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(EMBEDDED_DIR)


@pytest.fixture(scope="module")
def training():
    return resolve_text("embedded", "finetune")


@pytest.fixture
def pieces(tokenizer):
    """A smaller part of the embedded text, as the training part is stored."""
    text = resolve_text("embedded", "calibration")
    return KnownPieces(text, tokenizer, tuple(count_pieces(text, tokenizer)["counts"]))


@pytest.fixture
def encoded(monkeypatch):
    """The pieces that are encoded."""
    seen: list[str] = []

    def watched(pieces, tokenizer):
        seen.extend(pieces)
        return encode_pieces(pieces, tokenizer)

    monkeypatch.setattr(known_pieces, "encode_pieces", watched)
    return seen


@pytest.mark.parametrize("num_windows", [1, 40, 1000])
def test_windows_are_those_of_all_tokens(pieces, num_windows, tokenizer, encoded):
    stream = tokenize(joined(pieces.text), tokenizer)
    assert pieces.num_tokens == len(stream)
    starts = training_starts(len(stream), num_windows, SEQ_LEN, seed=3, round_index=2)
    found = pieces.windows(starts, SEQ_LEN)
    assert found is not None and torch.equal(found, windows_at(stream, starts, SEQ_LEN))
    assert len(encoded) <= min(len(pieces.counts), 3 * num_windows)


def test_the_first_and_the_last_token_are_in_the_first_and_the_last_window(pieces, tokenizer):
    stream = tokenize(joined(pieces.text), tokenizer)
    starts = torch.tensor([0, len(stream) - SEQ_LEN, 1])
    assert torch.equal(pieces.windows(starts, SEQ_LEN), windows_at(stream, starts, SEQ_LEN))


@pytest.mark.parametrize("change", [1, -1])
def test_numbers_that_are_not_those_of_the_text_give_no_windows(pieces, change, caplog):
    counts = (pieces.counts[0] + change, *pieces.counts[1:])
    other = dataclasses.replace(pieces, counts=counts)
    assert other.windows(torch.tensor([0]), SEQ_LEN) is None
    assert "embedded has not the tokens that train.pieces.json says" in caplog.text
    fewer = dataclasses.replace(pieces, counts=pieces.counts[:-1])
    assert fewer.windows(torch.tensor([0]), SEQ_LEN) is None


def test_stored_numbers_are_those_of_the_embedded_text(training, tokenizer):
    found = KnownPieces.of(training, tokenizer)
    assert found is not None, "run experiments/embedded/count_pieces.py"
    assert found.num_tokens == 6_174_771
    pieces = cut(joined(training))
    assert len(pieces) == len(found.counts), "run experiments/embedded/count_pieces.py"
    sample = random.Random(0).sample(range(len(pieces)), 400)
    ids = encode_pieces([pieces[i] for i in sample], tokenizer)
    assert [len(each) for each in ids] == [found.counts[i] for i in sample]


def test_nothing_is_known_of_other_texts_and_tokenizers(
    training, tokenizer, tiny_opt_dir, tmp_path
):
    assert KnownPieces.of(resolve_text("embedded", "evaluation"), tokenizer) is None
    assert KnownPieces.of(training, load_tokenizer(tiny_opt_dir)) is None
    copy = tmp_path / "copy"
    tokenizer.save_pretrained(copy)
    assert KnownPieces.of(training, load_tokenizer(copy)) is not None
    stored = json.loads((copy / "tokenizer.json").read_text())
    stored["model"]["merges"].pop()
    (copy / "tokenizer.json").write_text(json.dumps(stored))
    assert KnownPieces.of(training, load_tokenizer(copy)) is None
