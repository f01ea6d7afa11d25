"""Token windows: exact, seeded, drawn as the original loaders draw them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from core.models.tokenizers import load_tokenizer
from core.texts.content import documents, joined
from core.texts.sources import resolve_text
from core.texts.windows import (
    Window,
    calibration_windows,
    default_sampling,
    evaluation_windows,
    token_stream,
    training_windows,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_opt_dir):
    return load_tokenizer(tiny_opt_dir)


@pytest.fixture
def text(tiny_text_file):
    return resolve_text(str(tiny_text_file), "calibration")


def test_special_tokens_stand_once_at_the_start(text, tokenizer, capfd):
    stream = token_stream(text, tokenizer)
    assert stream.dtype == torch.long and stream[0] == 2
    assert (stream == 2).sum() == 1
    assert tokenizer.decode(stream[1:]) == joined(text)
    assert "".join(capfd.readouterr()) == ""


def test_documents_are_drawn_as_the_sparsegpt_code_draws_them(text, tokenizer):
    rows = [tokenizer(row, verbose=False)["input_ids"] for row in documents(text)]
    length = sorted(map(len, rows))[len(rows) // 2]
    found = calibration_windows(text, tokenizer, 6, length, "documents", seed=3)
    source = random.Random(3)
    for window in found:
        while True:
            row = rows[source.randint(0, len(rows) - 1)]
            if len(row) > length:
                break
        start = source.randint(0, len(row) - length - 1)
        assert window.tolist() == row[start : start + length]
    assert found.shape == (6, length)


def test_the_stream_is_drawn_as_the_original_loaders_draw_it(text, tokenizer):
    stream = tokenizer(joined(text), verbose=False)["input_ids"]
    found = calibration_windows(text, tokenizer, 5, 64, "stream", seed=1)
    source = random.Random(1)
    for window in found:
        start = source.randint(0, len(stream) - 64 - 1)
        assert window.tolist() == stream[start : start + 64]


def test_windows_depend_on_the_seed_alone(text, tokenizer):
    def draw(seed, sampling="stream"):
        random.seed(99)
        return calibration_windows(text, tokenizer, 4, 32, sampling, seed)

    state = random.getstate()
    calibration_windows(text, tokenizer, 4, 32, None, 0)
    assert random.getstate() == state
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    assert torch.equal(draw(0, None), draw(0)) and not torch.equal(draw(0, "documents"), draw(0))


def test_the_default_sampling_is_the_original_loaders(text):
    assert default_sampling(text) == "stream"
    assert default_sampling(resolve_text("embedded", "calibration")) == "stream"
    for name in ("c4", "c4:train", "c4=here.json.gz", "c4:train=here.json.gz"):
        assert default_sampling(replace(text, name=name)) == "documents"
    assert default_sampling(replace(text, name="c4/here.txt")) == "stream"


def test_a_short_stream_is_drawn_from_as_the_original_loaders_do_and_said(
    tmp_path, tokenizer, caplog
):
    (tmp_path / "short.txt").write_text("ka lo mi ren. " * 40)
    text = resolve_text(str(tmp_path / "short.txt"), "calibration")
    stream = token_stream(text, tokenizer).tolist()
    found = calibration_windows(text, tokenizer, 99, 64, "stream", 0)
    source = random.Random(0)
    starts = [source.randint(0, len(stream) - 64 - 1) for _ in range(99)]
    assert found.tolist() == [stream[start : start + 64] for start in starts]
    (said,) = caplog.messages
    assert f"{len(stream)} tokens, which are {len(stream) // 64} windows side by side" in said
    caplog.clear()
    calibration_windows(text, tokenizer, len(stream) // 64, 64, "stream", 0)
    assert not caplog.messages


def test_a_stream_of_a_window_is_too_short_and_one_token_more_is_enough(tmp_path, tokenizer):
    (tmp_path / "short.txt").write_text("ka lo mi ren. " * 40)
    text = resolve_text(str(tmp_path / "short.txt"), "calibration")
    count = len(token_stream(text, tokenizer))
    wanted = f"^--calibration.text .*{count} tokens are not more than a window of {count}; .*lower"
    with pytest.raises(ValueError, match=wanted):
        calibration_windows(text, tokenizer, 1, count, "stream", 0)
    windows = calibration_windows(text, tokenizer, 1, count - 1, "stream", 0)
    assert windows.shape == (1, count - 1)


def test_too_short_documents_say_how_long_the_longest_is(text, tokenizer):
    longest = max(len(tokenizer(row, verbose=False)["input_ids"]) for row in documents(text))
    with pytest.raises(ValueError, match=f"40 documents.*the longest has {longest}"):
        calibration_windows(text, tokenizer, 1, longest, "documents", 0)
    assert calibration_windows(text, tokenizer, 2, longest - 1, "documents", 0).shape[0] == 2


def test_one_long_document_among_many_is_found(tmp_path, tokenizer):
    (tmp_path / "one.txt").write_text("ka\n" * 300 + "ka lo mi ren " * 50 + "\n")
    text = resolve_text(str(tmp_path / "one.txt"), "calibration")
    assert calibration_windows(text, tokenizer, 3, 32, "documents", 0).shape == (3, 32)


def test_a_pass_of_training_windows_repeats_no_token():
    windows = training_windows(torch.arange(1000), 98, 10, seed=0, round_index=0)
    assert windows.shape == (98, 10) and windows.unique().numel() == 980
    assert torch.equal(windows - windows[:, :1], torch.arange(10).expand(98, 10))


def test_training_windows_pass_over_the_text_as_often_as_needed():
    windows = training_windows(torch.arange(100), 50, 10, seed=0, round_index=0)
    assert windows.shape == (50, 10)
    assert len(set((windows[:, 0] % 10).tolist())) > 2, "each pass has an offset of its own"
    assert torch.bincount(windows.flatten(), minlength=100)[10:90].min() >= 4


def test_training_windows_are_the_same_however_many_are_asked_for():
    stream = torch.arange(1000)
    many = training_windows(stream, 250, 10, seed=0, round_index=2)
    for count in (0, 1, 99, 100, 101):
        assert torch.equal(training_windows(stream, count, 10, 0, 2), many[:count])


def test_training_windows_depend_on_seed_and_round():
    draws = {
        (seed, index): training_windows(torch.arange(500), 20, 10, seed, index)
        for seed in (0, 1)
        for index in (0, 1)
    }
    state = torch.get_rng_state()
    assert torch.equal(draws[0, 1], training_windows(torch.arange(500), 20, 10, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(windows.flatten().tolist()) for windows in draws.values()}) == 4


def test_a_text_of_exactly_one_window_trains_and_a_shorter_one_does_not():
    assert training_windows(torch.arange(10), 3, 10, 0, 0).tolist() == [list(range(10))] * 3
    with pytest.raises(ValueError, match="^--finetune.text .*0 windows of 11"):
        training_windows(torch.arange(10), 3, 11, 0, 0)


def test_wikitext_has_the_published_number_of_tokens(shared_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "models" / "opt-tokenizer")
    path = shared_dir / "data" / "wikitext-2-raw" / "wiki.test.raw"
    stream = token_stream(resolve_text(str(path), "evaluation"), tokenizer)
    assert len(stream) == 287_645 and stream[0] == 2


# Evaluation --------------------------------------------------------------------------------------


def test_windows_cover_whole_lengths_and_drop_the_tail():
    assert evaluation_windows(10, 4) == [Window(0, 4, 4), Window(4, 8, 4)]


def test_a_stride_of_a_whole_window_is_no_stride():
    assert evaluation_windows(10, 4, 4) == evaluation_windows(10, 4)


def test_sliding_windows_score_only_what_was_not_scored():
    expected = [Window(0, 4, 4), Window(2, 6, 2), Window(4, 7, 1)]
    assert evaluation_windows(7, 4, 2) == expected


@pytest.mark.parametrize("num_tokens", [8, 9, 30, 31, 64])
@pytest.mark.parametrize("stride", [1, 3, 7])
def test_sliding_windows_score_every_token_once(num_tokens, stride):
    windows = evaluation_windows(num_tokens, 8, stride)
    scored = [t for w in windows for t in range(w.end - w.num_scored, w.end)]
    assert scored == list(range(num_tokens))


@pytest.mark.parametrize("stride", [None, 4, 2])
def test_a_stream_shorter_than_a_window_has_none(stride):
    assert evaluation_windows(3, 4, stride) == []


@pytest.mark.parametrize("stride", [None, 2])
def test_max_windows_takes_the_first(stride):
    windows = evaluation_windows(100, 8, stride)
    assert evaluation_windows(100, 8, stride, max_windows=3) == windows[:3]
