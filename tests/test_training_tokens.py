"""Tokens of training texts: checked before Ray starts, made while trials run, then waited for."""

import dataclasses
import errno
import json
import threading

import pytest
import torch

from core.checks import BadInputError
from core.models.tokenizers import load_tokenizer
from core.texts.known_pieces import KnownPieces, count_pieces
from core.texts.sources import resolve_text
from core.texts.tokenization import tokenize
from core.texts.windows import token_stream, training_windows
from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.failure import DamagedTokensError
from orchestrator.inputs import token_reader, training_tokens
from orchestrator.inputs.token_files import stored_names, write_tokens
from orchestrator.inputs.token_reader import Awaited, TokenReader
from orchestrator.inputs.tokens import tokens_id
from orchestrator.jobs import trial_job
from orchestrator.out_dir import mark
from orchestrator.plan.kinds import Finetune
from orchestrator.preparation import prepare, read_texts, trials_of

SENTENCE = "The quick brown fox jumps over the lazy dog, and again.\n"


@pytest.fixture
def prepared(tiny_opt_dir, write_texts, tmp_path, monkeypatch):
    """Return a function that plans a small sweep with training."""
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.txt").write_text(SENTENCE * 3000)

    def prepare_(*flags, text="long.txt", tokens="64"):
        words = ["--models", str(tiny_opt_dir), "--methods", "magnitude", "--regimes", "finetune"]
        words += ["--sparsities", "0.5", "--eval.texts", "test.txt", "--eval.seq-len", "32"]
        words += ["--finetune.text", text, "--finetune.tokens", tokens, "--finetune.seq-len", "32"]
        words += ["--finetune.batch-tokens", "32", "--out-dir", "out", *flags]
        return prepare(parse(SweepConfig(), words, ""))

    return prepare_


@pytest.fixture
def tokenised(monkeypatch):
    """The number of characters of training texts that were tokenised, call by call."""
    seen: list[int] = []

    def watched(text, tokenizer):
        seen.append(len(text))
        return tokenize(text, tokenizer)

    monkeypatch.setattr(training_tokens, "tokenize", watched)
    return seen


def draws_of(sweep) -> list:
    """Return the draws of all training stages."""
    return [s.work.training_draw() for s in sweep.plan.stages.values() if s.work.trains]


def reader_of(sweep, **awaited) -> TokenReader:
    """Return a worker's reader."""
    (model,) = sweep.models
    return TokenReader(sweep.store, model.source, model.texts, Awaited(**awaited))


def expected(sweep, draw):
    """Return the windows of a draw, from all tokens of the text."""
    (model,) = sweep.models
    stream = token_stream(model.texts[draw.text.text], load_tokenizer(model.source))
    return training_windows(stream, draw.num_windows, draw.text.seq_len, draw.seed, draw.round)


def test_a_budget_holds_whole_windows(prepared):
    for tokens, count in (("32", 1), ("63", 1), ("64", 2)):
        draws = draws_of(prepared(tokens=tokens))
        assert draws and all(draw.num_windows == count for draw in draws)


def test_before_ray_starts_only_the_beginning_is_tokenised(prepared, tokenised):
    sweep = prepared()
    texts = read_texts(sweep)
    assert tokenised == [training_tokens.CHECKED_CHARS]
    (draw, *_) = draws_of(sweep)
    assert texts.training.names == {tokens_id(draw.text, sweep.models[0].source.identity)}
    texts.training.write()
    assert tokenised[1:] == [len(SENTENCE) * 3000]
    assert not read_texts(sweep).training.names and len(tokenised) == 2
    for draw in draws_of(sweep):
        assert torch.equal(reader_of(sweep).training_windows(draw), expected(sweep, draw))


BAD = {
    "short.txt": ("only a few words\n", "short.txt: has .* tokens, 0 windows of 32"),
    "late.jsonl": (
        json.dumps({"text": SENTENCE}) + "\n" + (json.dumps({"text": SENTENCE}) + "\n") * 900 + "x",
        "line 902 is not JSON",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_training_text_is_refused_before_ray_starts(prepared, tmp_path, name):
    content, line = BAD[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInputError, match=line):
        read_texts(prepared(text=name))


def test_a_late_token_without_an_embedding_is_refused_before_ray_starts(prepared, tmp_path):
    sweep = prepared()
    (model,) = sweep.models
    tokenizer = load_tokenizer(model.source)
    text = training_tokens.WholeStream("n", model, SENTENCE * 3000 + "<new>", tokenizer)
    (draw, *_) = draws_of(sweep)
    text.check(draw.text)
    tokenizer.add_tokens(["<new>"])
    index = tokenizer.convert_tokens_to_ids("<new>")
    model.facts = dataclasses.replace(model.facts, vocab_size=index)
    with pytest.raises(BadInputError, match=f"gives id {index} .*<new>"):
        text.check(draw.text)


def test_a_text_that_begins_with_spaces_is_read_on_until_it_has_a_window(prepared, tokenised):
    sweep = prepared()
    (model,) = sweep.models
    (draw, *_) = draws_of(sweep)
    content = " " * 20_000 + "a\n" * 3000
    training_tokens.WholeStream("n", model, content, load_tokenizer(model.source)).check(draw.text)
    assert tokenised[0] == training_tokens.CHECKED_CHARS


# Windows of known pieces --------------------------------------------------------------------------


@pytest.fixture
def known(prepared, monkeypatch):
    """A sweep that trains on a text whose pieces are known."""

    def of(text, tokenizer):
        return KnownPieces(text, tokenizer, tuple(count_pieces(text, tokenizer)["counts"]))

    monkeypatch.setattr(training_tokens.KnownPieces, "of", of)
    return prepared


def test_rounds_of_known_pieces_have_a_file_each(known, tokenised):
    sweep = known("--seeds", "0", "1")
    texts = read_texts(sweep)
    identity, draws = sweep.models[0].source.identity, draws_of(sweep)
    assert texts.training.names == {tokens_id(draw, identity) for draw in draws}
    texts.training.write()
    assert not tokenised and not read_texts(sweep).training.names
    for draw in draws:
        assert torch.equal(reader_of(sweep).training_windows(draw), expected(sweep, draw))


def test_a_longer_budget_makes_new_files_and_leaves_the_others(known):
    short = known()
    mark(short.store)
    read_texts(short).training.write()
    before = stored_names(short.store)
    long = known(tokens="256")
    texts = read_texts(long)
    assert texts.training.names and not texts.training.names & before
    texts.training.write()
    assert before < stored_names(long.store)
    for sweep in (short, long):
        for draw in draws_of(sweep):
            assert torch.equal(reader_of(sweep).training_windows(draw), expected(sweep, draw))


def test_all_tokens_that_an_earlier_sweep_stored_are_used(known):
    sweep = known()
    (model,), draws = sweep.models, draws_of(sweep)
    stream = torch.arange(5000) % 7
    write_tokens(sweep.store, tokens_id(draws[0].text, model.source.identity), stream)
    assert not read_texts(sweep).training.names
    for draw in draws:
        windows = training_windows(stream, draw.num_windows, 32, draw.seed, draw.round)
        assert torch.equal(reader_of(sweep).training_windows(draw), windows)


def test_pieces_that_moved_give_the_same_windows_from_all_tokens(known, monkeypatch):
    monkeypatch.setattr(KnownPieces, "windows", lambda *_: None)
    sweep = known()
    read_texts(sweep).training.write()
    for draw in draws_of(sweep):
        assert torch.equal(reader_of(sweep).training_windows(draw), expected(sweep, draw))


def test_a_damaged_file_is_drawn_again(known, caplog):
    sweep = known()
    read_texts(sweep).training.write()
    draw = draws_of(sweep)[0]
    name = tokens_id(draw, sweep.models[0].source.identity)
    sweep.store.files.write_bytes(b"", "tokens", f"{name}.safetensors")
    assert torch.equal(reader_of(sweep).training_windows(draw), expected(sweep, draw))
    assert f"tokens/{name} is not readable; drawn again" in caplog.text


# Waiting ------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Workers look again at once."""
    monkeypatch.setattr(token_reader, "WAIT_SECONDS", 0.01)


def test_a_worker_waits_for_the_file_that_the_command_makes(prepared, quick, monkeypatch):
    sweep = prepared()
    texts, looked = read_texts(sweep), threading.Event()
    (trial,) = trials_of(sweep, texts.seconds, 1)
    job = trial_job(sweep, trial, set(), texts.training.names)
    assert job.awaited_tokens == texts.training.names
    reader = reader_of(sweep, names=job.awaited_tokens, attempt="now", seconds=60.0)
    has_tokens = token_reader.has_tokens

    def watched(store, name):
        found = has_tokens(store, name)
        looked.set()
        return found

    def made(text, tokenizer):
        assert looked.wait(60)
        return tokenize(text, tokenizer)

    monkeypatch.setattr(token_reader, "has_tokens", watched)
    monkeypatch.setattr(training_tokens, "tokenize", made)
    texts.training.start()
    draw = draws_of(sweep)[0]
    assert torch.equal(reader.training_windows(draw), expected(sweep, draw))


def test_a_file_that_cannot_be_made_ends_the_stage_in_a_line(prepared, quick, monkeypatch):
    sweep = prepared()
    texts = read_texts(sweep)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training_tokens, "write_tokens", full)
    texts.training.start()
    names, attempt = texts.training.names, sweep.attempt
    reader = reader_of(sweep, names=names, attempt=attempt, seconds=60.0)
    line = "tokens/.* is not made: .*No space left on device"
    with pytest.raises(DamagedTokensError, match=line):
        reader.training_windows(draws_of(sweep)[0])
    other = reader_of(sweep, names=names, attempt="another run", seconds=0.0)
    with pytest.raises(DamagedTokensError, match="missing for 0 s"):
        other.training_windows(draws_of(sweep)[0])


def test_only_training_stages_wait(prepared):
    sweep = prepared()
    names = read_texts(sweep).training.names
    draws = {s.work.training_draw() for s in sweep.plan.stages.values()}
    assert None in draws and names
    kinds = {type(s.work) for s in sweep.plan.stages.values() if s.work.training_draw()}
    assert kinds == {Finetune}
    assert resolve_text("long.txt", "finetune").identity in {d.text.text for d in draws if d}
