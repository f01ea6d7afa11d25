"""Errors told apart by type: memory, disk, network, lost and stuck workers, and the work itself."""

import errno
import pickle
import threading

import pytest
import requests
import torch
import torch.distributed as dist
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from orchestrator.cluster.diagnosis import describe
from orchestrator.cluster.restarts import FAILURES, LOST_NODES, NETWORK, SPOT
from orchestrator.failure import StuckError, carry_causes, chain, is_no_space, is_out_of_memory
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
    assert failure.patience is None and not failure.interrupted


S3_RESET = OSError(
    "When reading information for key 'rows/a.json' in bucket 'b': AWS Error NETWORK_CONNECTION "
    "during HeadObject operation: curlCode: 56, Connection reset by peer"
)


def raised(error, cause=None, context=None):
    """An error with what is behind it, as `raise error from cause` leaves it."""
    error.__cause__, error.__context__ = cause, context
    error.__suppress_context__ = cause is not None
    return error


def from_a_worker(error):
    """An error as it arrives from the process of a worker."""
    carry_causes(error)
    return pickle.loads(pickle.dumps(error))


class SafetensorError(Exception):
    """safetensors has no other type, and no `errno`."""


FULL = [
    OSError(errno.ENOSPC, "No space left on device", "/out/rows"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EFBIG, "File too large"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    raised(RuntimeError("saving failed"), cause=OSError(errno.ENOSPC, "No space left on device")),
    raised(KeyError("tidying failed"), context=OSError(errno.ENOSPC, "No space left on device")),
    RayTaskError("save", "Traceback ...", OSError(errno.ENOSPC, "full")).as_instanceof_cause(),
    ExceptionGroup("two writers", [ValueError("no"), OSError(errno.ENOSPC, "full")]),
    ControllerError(OSError(errno.ENOSPC, "No space left on device")),
]
NOT_FULL = [
    ValueError("--eval.texts book.txt: line 7: 'File too large' is no JSON"),
    RuntimeError("No space left on device, said the captain"),
    KeyError("Disk quota exceeded"),
    OSError(errno.ENOENT, "No such file or directory", "No space left on device.txt"),
    raised(ValueError("bad"), cause=None, context=None),
]


@pytest.mark.parametrize("error", FULL, ids=repr)
def test_a_full_disk_is_told_by_the_systems_number(error):
    assert is_no_space(error)
    found = error if isinstance(error, ControllerError) else group_error(ValueError("x"), error)
    failure = describe(Trial(), found)  # type: ignore[arg-type]
    assert failure.halts and failure.line.startswith("--out-dir out: no space left (")
    assert "\n" not in failure.line


@pytest.mark.parametrize("error", NOT_FULL, ids=repr)
def test_words_in_somebodys_text_are_no_full_disk(error):
    assert not is_no_space(error)
    assert not describe(Trial(), group_error(error)).halts  # type: ignore[arg-type]


def test_causes_cross_to_the_driver_with_the_error():
    full = raised(RuntimeError("saving failed"), cause=OSError(errno.ENOSPC, "full"))
    assert not is_no_space(pickle.loads(pickle.dumps(full)))
    assert is_no_space(from_a_worker(full))
    held = raised(ValueError("bad"), cause=RuntimeError(threading.Lock()))
    assert [type(error) for error in chain(from_a_worker(held))] == [ValueError]


CLOSED = RuntimeError(
    "[/pytorch/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:25253."
)
LATE = RuntimeError(
    "[/pytorch/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv"
)
NO_HUB = raised(OSError("we could not connect to the hub"), cause=requests.ReadTimeout("timed out"))
NODE_GONE = ActorDiedError()
NODE_GONE.error_msg = "The actor died because its node has died."
DIED = WorkerHealthCheckFailedError("a worker health check failed", ActorDiedError())
TOLD_APART = [
    ([S3_RESET], "the network failed: OSError: When reading", NETWORK),
    ([ConnectionResetError(104, "Connection reset by peer")], "the network failed: Conn", NETWORK),
    ([raised(ValueError("rows"), cause=S3_RESET)], "the network failed: ValueError: rows", NETWORK),
    ([requests.ReadTimeout("Timed out waiting for huggingface.co")], "the network fai", NETWORK),
    ([NO_HUB], "the network failed: OSError: we could not connect", NETWORK),
    ([from_a_worker(NO_HUB), CLOSED], "the network failed: OSError: we could not", NETWORK),
    ([CLOSED, ValueError("first\nlast")], "ValueError: last", FAILURES),
    ([LATE, ValueError("odd")], "ValueError: odd", FAILURES),
    ([CLOSED], "killed (possibly out of memory", FAILURES),
    ([CLOSED, DIED], "killed (possibly out of memory", FAILURES),
    ([LATE], "a worker was stuck for 60 s", FAILURES),
    ([dist.DistStoreError("wait timeout after 1000ms, keys: /x")], "a worker was stuck", FAILURES),
    ([dist.DistNetworkError("failed to recv, got 0 bytes")], "killed (possibly", FAILURES),
    ([dist.DistBackendError("NCCL error: remote process exited")], "killed (", FAILURES),
    ([raised(ValueError("gave up"), cause=StuckError("no report"))], "a worker was st", FAILURES),
    ([ValueError("the text says: Connection reset by peer")], "ValueError: the text", FAILURES),
    ([ValueError("ActorDiedError: its node has died")], "ValueError: ActorDied", FAILURES),
    ([RuntimeError("row 7: Timed out waiting 5ms")], "RuntimeError: row 7", FAILURES),
    ([RuntimeError("row 7 says CUDA out of memory")], "RuntimeError: row 7", FAILURES),
    ([ValueError("[enforce fail] can't allocate memory")], "ValueError: [enforce", FAILURES),
    ([NODE_GONE], "a node was lost", LOST_NODES),
    ([WorkerHealthCheckFailedError("no", NODE_GONE), CLOSED], "a node was lost", LOST_NODES),
    ([NodeDiedError("gone")], "a node was lost", LOST_NODES),
    ([WorkerHealthCheckTimeoutError("hanging")], "a worker was stuck", FAILURES),
    ([OutOfMemoryError("the node runs low")], "out of memory; estimated 2.5 GiB", FAILURES),
    ([raised(ValueError("x"), cause=MemoryError())], "out of memory; estimated 2.5 GiB", None),
]


@pytest.mark.parametrize(("errors", "line", "patience"), TOLD_APART, ids=repr)
def test_each_end_of_a_group_is_told_by_type(errors, line, patience):
    failure = describe(Trial(), group_error(*errors))  # type: ignore[arg-type]
    assert failure.line.startswith(line) and "\n" not in failure.line
    assert failure.patience == patience


def test_a_lost_controller_of_a_group_is_a_lost_process():
    failure = describe(Trial(), ActorDiedError())  # type: ignore[arg-type]
    assert failure.line.startswith("killed") and failure.interrupted


def test_a_spot_node_that_goes_is_no_failure():
    gone = RayActorError(preempted=True)
    failure = describe(Trial(), group_error(CLOSED, WorkerHealthCheckFailedError("no", gone)))  # type: ignore[arg-type]
    assert failure.patience is SPOT and failure.interrupted
