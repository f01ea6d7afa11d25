"""Perplexity against loops written from the two protocols' own descriptions."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from core.measures.perplexity import evaluate
from core.models.loading import load_model
from core.ranks import Ranks
from core.texts.windows import evaluation_windows

RANKS = Ranks.current()
VOCAB = 320


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["opt", "llama"])
def model(request, tiny_opt_dir, tiny_llama_dir):
    directory = {"opt": tiny_opt_dir, "llama": tiny_llama_dir}[request.param]
    return load_model(directory, torch.float32)


def random_stream(num_tokens: int) -> Tensor:
    return torch.randint(VOCAB, (num_tokens,), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def sparsegpt_protocol(model, stream: Tensor, seq_len: int) -> float:
    """The loop of the SparseGPT code: whole windows only, each mean times the window's length."""
    nlls = []
    for i in range(len(stream) // seq_len):
        ids = stream[i * seq_len : (i + 1) * seq_len][None]
        logits = model(ids).logits[:, :-1].double()
        chosen = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])
        nlls.append(-chosen.mean() * seq_len)
    return float(torch.exp(torch.stack(nlls).sum() / (len(nlls) * seq_len)))


@torch.no_grad()
def hugging_face_protocol(model, stream: Tensor, seq_len: int, stride: int) -> float:
    """The loop of the Hugging Face guide to the perplexity of fixed-length models."""
    nlls, previous_end, end = [], 0, 0
    for begin in range(0, len(stream), stride):
        end = min(begin + seq_len, len(stream))
        ids = stream[None, begin:end]
        labels = ids.clone()
        labels[:, : -(end - previous_end)] = -100
        nlls.append(model(ids, labels=labels).loss * (end - previous_end))
        previous_end = end
        if end == len(stream):
            break
    return float(torch.exp(torch.stack(nlls).sum() / end))


@pytest.mark.parametrize(("num_tokens", "seq_len"), [(640, 64), (700, 64), (128, 128), (333, 50)])
def test_non_overlapping_windows_follow_the_sparsegpt_code(model, num_tokens, seq_len):
    # float32 logits summed in another order: 1e-5 relative.
    stream = random_stream(num_tokens)
    result = evaluate(model, stream, evaluation_windows(num_tokens, seq_len), RANKS, micro_batch=3)
    expected = sparsegpt_protocol(model, stream, seq_len)
    assert result.perplexity == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("num_tokens", "seq_len", "stride"),
    [(500, 64, 32), (512, 64, 32), (501, 100, 7), (128, 128, 32), (129, 128, 127), (200, 64, 63)],
)
def test_sliding_windows_follow_the_hugging_face_guide(model, num_tokens, seq_len, stride):
    # float32 logits summed in another order: 1e-5 relative.
    stream = random_stream(num_tokens)
    windows = evaluation_windows(num_tokens, seq_len, stride)
    result = evaluate(model, stream, windows, RANKS, micro_batch=3)
    expected = hugging_face_protocol(model, stream, seq_len, stride)
    assert result.perplexity == pytest.approx(expected, rel=1e-5)


def test_the_micro_batch_changes_nothing_but_rounding(model):
    stream, windows = random_stream(700), evaluation_windows(700, 64)
    results = [evaluate(model, stream, windows, RANKS, micro_batch=n) for n in (1, 4, 99)]
    for result in results:
        assert result.nll == pytest.approx(results[0].nll, rel=1e-6)
        assert (result.num_tokens, result.num_windows) == (640, 10)


def test_bfloat16_compute_is_near_float32(model):
    # bf16 keeps 8 bits: 1 % of a perplexity of some hundreds.
    stream, windows = random_stream(320), evaluation_windows(320, 64)
    full = evaluate(model, stream, windows, RANKS)
    half = evaluate(model, stream, windows, RANKS, compute_dtype=torch.bfloat16)
    assert half.perplexity != full.perplexity
    assert half.perplexity == pytest.approx(full.perplexity, rel=1e-2)


def test_no_window_at_all_is_refused(model):
    with pytest.raises(ValueError, match="--eval.texts of 63 tokens: makes 0 windows"):
        evaluate(model, random_stream(63), evaluation_windows(63, 64), RANKS)


def test_evaluation_changes_no_weight(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, random_stream(128), evaluation_windows(128, 64), RANKS)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Fixed(nn.Module):
    """Predicts token 1 with `logit` and the other three with zero, whatever it reads."""

    def __init__(self, logit: float):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, ids: Tensor) -> SimpleNamespace:
        logits = torch.zeros(*ids.shape, 4)
        logits[..., 1] = self.logit
        return SimpleNamespace(logits=logits)


def perplexity_of(logit: float, stream: Tensor) -> tuple[float, float]:
    windows = evaluation_windows(len(stream), 4)
    result = evaluate(Fixed(logit), stream, windows, RANKS)  # type: ignore[arg-type]
    return result.perplexity, result.nll


def test_a_uniform_prediction_has_the_size_of_the_vocabulary():
    assert perplexity_of(0.0, torch.tensor([0, 1, 2, 3]))[0] == pytest.approx(4.0, rel=1e-6)


def test_a_perplexity_beyond_float_range_is_infinite_with_a_finite_nll():
    perplexity, nll = perplexity_of(1e4, torch.zeros(8, dtype=torch.long))
    assert perplexity == math.inf and nll == pytest.approx(1e4)


def test_an_infinite_nll_stays_infinite():
    perplexity, nll = perplexity_of(-math.inf, torch.ones(8, dtype=torch.long))
    assert perplexity == math.inf and nll == math.inf


def test_nan_stays_nan():
    perplexity, nll = perplexity_of(math.nan, torch.ones(8, dtype=torch.long))
    assert math.isnan(perplexity) and math.isnan(nll)
