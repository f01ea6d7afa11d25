"""Perplexity of the weights in memory on the tokens of a text, by the text's windows."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from core.measures.perplexity import Perplexity, evaluate
from core.precision import DTYPES
from core.texts.windows import Window, evaluation_windows
from orchestrator.plan.inputs import EvaluationText, ValidationText
from orchestrator.trial.workspace import Workspace


def perplexity_on(
    space: Workspace,
    model: PreTrainedModel,
    stream: Tensor,
    text: EvaluationText | ValidationText,
    dtype: str,
) -> tuple[Perplexity, list[Window]]:
    """Return the perplexity of a model and the windows behind it (collective).

    Args:
        space: the trial's workspace.
        model: the model.
        stream: the tokens of the text's file.
        text: the text, which says what its windows are.
        dtype: of forward passes.
    """
    bos = None
    if text.bos:
        bos, stream = int(stream[0]), stream[1:]
    stride = text.stride if isinstance(text, EvaluationText) else None
    windows = evaluation_windows(len(stream), text.seq_len, stride, text.max_windows, bos)
    micro_batch = space.micro_batch(text.seq_len)
    settings = {"micro_batch": micro_batch, "compute_dtype": DTYPES[dtype]}
    return evaluate(model, stream, windows, space.ranks, **settings), windows
