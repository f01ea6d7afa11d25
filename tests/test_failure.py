"""Lack of memory on a GPU is told from other errors, and a group that lacks it is not restarted."""

import pytest
import torch
from ray.train import WorkerGroupError

from orchestrator.cluster.diagnosis import describe
from orchestrator.failure import is_out_of_memory
from orchestrator.plan.job import Limits, Workers

WORDS = [
    "[enforce fail] can't allocate memory",
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB",
    "CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnXpotrf(handle)`",
    "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
]
OTHER_WORDS = [
    "CUDA error: device-side assert triggered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb)`",
    "cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnXpotrf(handle)`",
    "Connection closed by peer [127.0.0.1]",
]


class Trial:
    """The fields of a job that a failure's line needs."""

    workers = Workers("cuda", 2, 8, micro_batch_tokens=2048, memory_bytes=2.5 * 2**30)
    limits = Limits(checkpoint_seconds=60.0, timeout_seconds=60.0, stop_perplexity=None)
    store_root = "out"


def group_error(*errors):
    return WorkerGroupError("workers failed", dict(enumerate(errors)))


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[:30])
def test_each_way_to_say_that_memory_is_out_is_known(words):
    assert is_out_of_memory(RuntimeError(words))


@pytest.mark.parametrize("words", OTHER_WORDS, ids=lambda words: words[:30])
def test_other_errors_of_a_gpu_are_not_taken_for_it(words):
    assert not is_out_of_memory(RuntimeError(words))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(WORDS[1]), torch.AcceleratorError(WORDS[2]), MemoryError()]
)
def test_a_rank_without_memory_ends_its_group_for_good(error):
    # The other ranks wait for it, and fail when it goes.
    failure = describe(Trial(), group_error(RuntimeError(OTHER_WORDS[-1]), error))  # type: ignore[arg-type]
    assert "out of memory; estimated 2.5 GiB a worker" in failure.line
    assert not failure.retry and not failure.interrupted
