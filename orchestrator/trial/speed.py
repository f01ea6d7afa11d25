"""Speed of the weights in memory: seconds of prefill and of decoding one token.

Dense kernels are measured for every cell. A 2:4 model on a GPU is measured with sparse kernels too;
where there are none, the reason is recorded.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import torch
from transformers import PreTrainedModel

from core.measures.speed import measure_speed
from core.models.semi_structured import with_sparse_kernels
from core.precision import DTYPES
from orchestrator.plan.kinds import Speed
from orchestrator.plan.stages import Stage
from orchestrator.trial.clock import timed
from orchestrator.trial.workspace import Workspace

STREAMED = "the model is larger than memory"


def run_speed(space: Workspace, stage: Stage) -> None:
    """Measure the parent's weights, which one worker holds whole, and publish the seconds."""
    work = stage.work
    assert isinstance(work, Speed) and space.ranks.size == 1
    metrics: dict[str, Any] = {"dense_kernels": None, "sparse_kernels": None}
    if space.weights.streams:
        metrics["no_dense_kernels"] = STREAMED
        with timed(space.ranks) as clock:
            pass
    else:
        with timed(space.ranks) as clock:
            metrics |= both_kernels(space, stage, work)
    space.publish_metrics(stage, {**metrics, **clock})


def both_kernels(space: Workspace, stage: Stage, work: Speed) -> dict[str, Any]:
    """Return the speed with dense kernels, and with sparse ones where there are some."""
    model, _ = space.weights.load(stage.parent, training=False)
    model = in_dtype(model, DTYPES[work.dtype])
    found: dict[str, Any] = {"dense_kernels": speed_of(space, model, work)}
    structure = space.job.target_of(stage.parent).mask_structure
    if space.ranks.device.type != "cuda" or structure != "2:4":
        return found
    try:
        found["sparse_kernels"] = speed_of(space, with_sparse_kernels(model), work)
    except (RuntimeError, NotImplementedError, ValueError) as error:  # What torch says of limits.
        found["no_sparse_kernels"] = (str(error) or type(error).__name__).splitlines()[0]
    return found


def speed_of(space: Workspace, model: PreTrainedModel, work: Speed) -> dict[str, Any]:
    """Return prefill and decoding of a model as JSON values."""
    length = work.prompt_length(space.job.max_seq_len)
    generator = torch.Generator().manual_seed(0)
    size = (work.batch, length)
    prompt = torch.randint(model.config.get_text_config().vocab_size, size, generator=generator)
    speed = measure_speed(model, prompt, work.new_tokens, work.repeats)
    return {**asdict(speed), "prompt_tokens": length}


def in_dtype(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model, or a copy in this dtype: trained weights are stored as float32."""
    if next(model.parameters()).dtype == dtype:
        return model
    copied = copy.deepcopy(model)
    torch.nn.Module.to(copied, dtype)
    return copied
