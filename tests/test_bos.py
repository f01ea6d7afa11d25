"""Windows that begin with BOS, for families that predict nonsense without it."""

from __future__ import annotations

import math

import pytest
import torch
import walked
from torch.nn import functional
from transformers import AutoTokenizer, GemmaConfig

from core.config import CalibrationConfig, EvalConfig, FinetuneConfig
from core.measures.counts import token_counts
from core.measures.perplexity import evaluate
from core.models.families import needs_bos
from core.models.loading import load_model
from core.ranks import Ranks
from core.texts.tokenization import WithoutBos, tokenize
from core.texts.windows import Window, begun, evaluation_windows
from orchestrator.config import GridConfig, OutputConfig, SweepConfig
from orchestrator.inputs.token_files import read_tokens
from orchestrator.inputs.tokens import tokens_id
from orchestrator.preparation import prepare

pytestmark = pytest.mark.usefixtures("one_thread")
BOS = 2
WORDS = "kalo miren. tus or aka shining pel"


@pytest.fixture(scope="module")
def gemma(make_model_dir):
    """A tiny random Gemma, whose tokenizer puts BOS in front of a text."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    ids = {"vocab_size": 320, "bos_token_id": BOS, "eos_token_id": BOS, "pad_token_id": 1}
    return make_model_dir(GemmaConfig(**sizes, **heads, **ids))


def test_the_families_that_need_it_are_all_of_gemma():
    assert all(map(needs_bos, ("gemma", "gemma2", "gemma3_text")))
    assert not any(map(needs_bos, ("opt", "llama", "mistral", "qwen2", "qwen3")))


def test_windows_are_bos_and_the_next_tokens_which_all_count():
    windows = evaluation_windows(10, 4, bos=BOS)
    assert windows == [Window(0, 3, 3, BOS), Window(3, 6, 3, BOS), Window(6, 9, 3, BOS)]
    assert windows[1].ids(torch.arange(10, 20)).tolist() == [BOS, 13, 14, 15]
    assert evaluation_windows(10, 4, 4, bos=BOS) == evaluation_windows(10, 4, 3, bos=BOS) == windows
    # By hand: windows of three tokens every two; only those not scored before count.
    sliding = evaluation_windows(6, 4, 2, bos=BOS)
    assert [(w.begin, w.end, w.num_scored) for w in sliding] == [(0, 3, 3), (2, 5, 2), (4, 6, 1)]


@pytest.mark.parametrize("stride", [None, 5])
def test_every_token_after_bos_is_predicted(gemma, stride):
    model = load_model(gemma, torch.float32)
    stream = torch.randint(4, 320, (95,), generator=torch.Generator().manual_seed(0))
    windows = evaluation_windows(len(stream), 16, stride, bos=BOS)
    found = evaluate(model, stream, windows, Ranks.current(), micro_batch=3)
    total, count = 0.0, 0
    for window in windows:
        ids = torch.cat([torch.tensor([BOS]), stream[window.begin : window.end]])
        logits = model(ids[None]).logits[0, :-1].detach()
        losses = functional.cross_entropy(logits, ids[1:], reduction="none")
        assert len(losses) == window.end - window.begin
        total += float(losses[-window.num_scored :].sum())
        count += window.num_scored
    assert count == found.num_tokens == (95 if stride else 90)
    assert found.nll == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("puts_bos", [True, False])
def test_a_text_loses_the_bos_of_its_tokenizer_and_nothing_else(gemma, puts_bos):
    tokenizer = AutoTokenizer.from_pretrained(gemma)
    if not puts_bos:
        tokenizer.backend_tokenizer.post_processor = None
    bare = tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    assert tokenize(WORDS, tokenizer).tolist() == [BOS] * puts_bos + bare
    reader = WithoutBos(tokenizer)
    assert tokenize(WORDS, reader).tolist() == bare and reader.bos == BOS
    counts = token_counts(WORDS, reader)
    assert counts is not None and len(counts) == len(bare)
    assert counts.sum(0).tolist() == [len(WORDS.split()), len(WORDS)]


def test_a_tokenizer_without_bos_is_refused(gemma):
    tokenizer = AutoTokenizer.from_pretrained(gemma)
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="--models .*begin with BOS, and its tokenizer names none"):
        _ = WithoutBos(tokenizer).bos


def config_of(model, folder, **grid) -> SweepConfig:
    several = {"methods": ("wanda",), "regimes": ("finetune",), "sparsities": (0.5,)} | grid
    return SweepConfig(
        grid=GridConfig(models=(str(model),), **several),
        calibration=CalibrationConfig(str(folder / "calibration.txt"), num_samples=4, seq_len=16),
        finetune=FinetuneConfig(
            text=str(folder / "train.txt"), tokens=256, seq_len=32, batch_tokens=64
        ),
        eval=EvalConfig(texts=(str(folder / "test.txt"),), seq_len=32, max_windows=8),
        output=OutputConfig(out_dir=str(folder / "out")),
    )


@pytest.mark.parametrize("protocol", ["sparsegpt", "alps"])
def test_calibration_training_and_evaluation_have_it_and_rows_say_so(
    gemma, tmp_path, write_texts, protocol
):
    write_texts(tmp_path)
    sweep = walked.walk(config_of(gemma, tmp_path, protocol=protocol))
    rows = sweep.store.rows.read().values()
    assert {row["status"] for row in rows} == {"done"}
    assert {row["window_start"] for row in rows} == {"bos"}
    # 8 windows of BOS and 31 tokens.
    assert {row["num_eval_tokens"] for row in rows} == {8 * 31}
    assert all(math.isfinite(row["word_perplexity"]) for row in rows)
    own = sweep.models[0].source.identity
    for stage in sweep.plan.stages.values():
        for reading in stage.work.readings():
            tokens = read_tokens(sweep.store, tokens_id(reading, own))
            first = tokens[:, 0] if tokens.dim() == 2 else tokens[:1]
            assert (first == BOS).all() and int((tokens == BOS).sum()) == len(first)
    trained = [stage for stage in sweep.plan.stages.values() if stage.work.trains]
    assert {
        (stage.fields["text"]["bos"], stage.fields["text"]["seq_len"]) for stage in trained
    } == {(True, 32)}
    assert not prepare(sweep.config).cells


def test_training_windows_begin_with_it(gemma, tmp_path, write_texts):
    write_texts(tmp_path)
    sweep = walked.walk(config_of(gemma, tmp_path))
    job = walked.jobs_of(prepare(config_of(gemma, tmp_path, seeds=(1,))))[0]
    draw = next(filter(None, (stage.work.training_draw() for stage in job.stages)))
    reader = walked.Walk(job, sweep.store, Ranks.current(), print).space.token_reader
    windows, stream = reader.training_windows(draw), reader.tokens(draw.text)
    assert windows.shape == (8, 32) and (windows[:, 0] == BOS).all()
    found = {tuple(row) for row in stream[1:].unfold(0, 31, 1).tolist()}
    assert {tuple(row) for row in windows[:, 1:].tolist()} <= found


def test_other_families_have_the_identities_that_they_had(tiny_llama_dir, tmp_path, write_texts):
    write_texts(tmp_path)
    plan = prepare(config_of(tiny_llama_dir, tmp_path)).plan
    assert not any("bos" in repr(stage.fields) for stage in plan.stages.values())


def test_begun_puts_one_token_in_front():
    assert begun(torch.tensor([[5, 6], [7, 8]]), BOS).tolist() == [[BOS, 5, 6], [BOS, 7, 8]]
    assert begun(torch.tensor([5, 6]), BOS).tolist() == [BOS, 5, 6]
